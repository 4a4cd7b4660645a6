"""Stability's ControlLoRA: a control net as the base UNet with low-rank changes, marked ``lora_controlnet``.

``<original name>.down`` and ``.up`` change the base's weights; all other tensors are the control net's own layers,
which the base does not have. They are read as replaced weights of the component ``controlnet``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from lorica.adapters import Adapter
from lorica.errors import FormatError
from lorica.formats.account import Account
from lorica.formats.dialects.dialect import Parsed, read_only
from lorica.formats.keys import Keys
from lorica.formats.methods.layers import group
from lorica.formats.places import whole
from lorica.formats.storage.files import Stored
from lorica.models import Target

NAME = "control_lora"
MARK = "lora_controlnet"
COMPONENT = "controlnet"
_LEAVES = {"down": "lora.down", "up": "lora.up", "weight": "set_weight.weight"}


def recognises(keys: Keys) -> bool:
    """Tell whether the mark is there."""
    return keys.hold_key(MARK)


def parse(stored: Stored, target: Target | None, account: Account) -> Parsed:
    """Return the meaning of the keys; the names are the original model's, and nothing is looked up.

    Raises:
        FormatError: if it is to be put on a model that is no control net.
    """
    if target is not None and COMPONENT not in target.components:
        raise FormatError(
            f"{stored.source} is a ControlLoRA: it makes a control net of a copy of the base model, with layers of its "
            f"own, and is no adapter for {target.name} itself. Nothing here draws with a control net."
        )
    account.used.append(MARK)
    return Parsed(group(_split(stored), stored.source), lambda name: whole(COMPONENT, name), None)


def compose(adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Refuse: files in this format are only read."""
    del adapter, target
    raise read_only(NAME)


def no_adapter(source: str, to: str) -> FormatError:
    """Return the error for writing a ControlLoRA in another format."""
    return FormatError(
        f"{source} is a ControlLoRA, a control net in the form of changes to its base model, which the {to} format "
        "cannot hold."
    )


def _split(stored: Stored) -> Iterator[tuple[str, str, str]]:
    """Yield each key with its module's name and its meaning. A bias is a weight of its own: it replaces, not adds."""
    for key in stored.tensors:
        name, _, leaf = key.rpartition(".")
        if key != MARK:
            yield (key, name, _LEAVES[leaf]) if leaf in _LEAVES else (key, key, "set_weight.weight")
