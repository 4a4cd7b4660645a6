"""The format of USO (and of XLabs' trainer with single blocks) for Flux: adapters in all attention processors.

``single_blocks.0.processor.qkv_lora.down.weight`` changes the q, k and v rows of ``linear1``, and not its MLP rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lorica.adapters import Adapter
from lorica.formats.account import Account
from lorica.formats.dialects.dialect import Parsed, read_only
from lorica.formats.dialects.naming import Naming, parse_named
from lorica.formats.dialects.xlabs import PREFIXES, split_processors
from lorica.formats.keys import Keys
from lorica.formats.places import Place
from lorica.formats.storage.files import Stored
from lorica.models import Target

NAME = "uso"
_FUSED = "linear1"  # q, k, v and the MLP over each other


def recognises(keys: Keys) -> bool:
    """Tell whether there are processors of single blocks."""
    return keys.hold(".processor.qkv_lora.", ".processor.proj_lora.")


def parse(stored: Stored, target: Target | None, account: Account) -> Parsed:
    """Return the meaning of the keys: looked up in the target's table, or in that of the family that fits best."""
    return parse_named(stored, target, account, NAMING, split_processors(stored, account))


def compose(adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Refuse: files in this format are only read."""
    del adapter, target
    raise read_only(NAME)


def _with_qkv(table: Mapping[str, Place]) -> dict[str, Place]:
    """Return the table with a name for the first three parts of each ``linear1``."""
    fused = {name: place for name, place in table.items() if name.endswith(f".{_FUSED}") and len(place.parts) > 1}
    return {**table, **{f"{name}.qkv": Place(place.component, place.parts[:3]) for name, place in fused.items()}}


NAMING = Naming(NAME, lambda _model: PREFIXES, ".", more=_with_qkv)
