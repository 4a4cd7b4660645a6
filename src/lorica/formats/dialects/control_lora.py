"""Stability's ControlLoRA: a control net as the base UNet with low-rank changes, marked ``lora_controlnet``.

``<original name>.down`` and ``.up`` change the base's weights; all other tensors are the control net's own layers,
which the base does not have. They are read as replaced weights of the component ``controlnet``.
"""

from __future__ import annotations

from lorica.errors import FormatError
from lorica.formats.account import Account
from lorica.formats.dialects.dialect import Dialect, Parsed
from lorica.formats.keys_to_modules import FileModules, Keys, Split
from lorica.formats.names import Location
from lorica.formats.storage.files import FileContents
from lorica.models import Target

MARK = "lora_controlnet"
COMPONENT = "controlnet"
_NEW = "set_weight.weight"  # what the layers of the control net itself are: weights that take the place of the base's
_LEAVES = {"down": "lora.down", "up": "lora.up", "weight": _NEW}


class _ControlLoRA(Dialect):
    def recognises(self, keys: Keys) -> bool:
        return keys.hold_key(MARK)

    def parse(self, contents: FileContents, target: Target | None, account: Account) -> Parsed:
        if target is not None and COMPONENT not in target.components:
            raise FormatError(
                f"{contents.source} is a ControlLoRA: it makes a control net of a copy of the base model, with layers "
                f"of its own, and is no adapter for {target.name} itself. Nothing here draws with a control net."
            )
        account.used.append(MARK)
        modules = FileModules(contents, _split(contents))
        return Parsed(modules, lambda name: Location.of(COMPONENT, name), None)


def no_adapter(source: str, to: str) -> FormatError:
    """The error for writing a ControlLoRA in another format."""
    return FormatError(
        f"{source} is a ControlLoRA, a control net in the form of changes to its base model, which the {to} format "
        "cannot hold."
    )


def _split(contents: FileContents) -> Split:
    """Each key with its module's name and its meaning. A bias is a weight of its own: it replaces, not adds."""
    for key in contents.tensors:
        name, _, leaf = key.rpartition(".")
        if key != MARK:
            yield (key, name, _LEAVES[leaf]) if leaf in _LEAVES else (key, key, _NEW)


CONTROL_LORA = _ControlLoRA(name="control_lora")
