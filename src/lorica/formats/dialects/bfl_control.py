"""The format of Black Forest Labs' control adapters for Flux (depth, canny): the original model's names, no prefix.

``double_blocks.0.img_attn.qkv.lora_A.weight``, with biases, and norms whose weights are replaced (``..._norm.scale``).
The first layer takes twice the channels: the adapter is for a model with that input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from lorica.adapters import Adapter
from lorica.formats.account import Account
from lorica.formats.dialects.dialect import Parsed, read_only
from lorica.formats.dialects.naming import Naming, parse_named, split_all
from lorica.formats.keys import Keys
from lorica.formats.storage.files import Stored
from lorica.models import Target

NAME = "bfl_control"
PREFIXES = {"transformer": ("",)}
_STARTS = ("double_blocks.", "single_blocks.", "img_in.", "final_layer.")


def recognises(keys: Keys) -> bool:
    """Tell whether the original model's names stand there without a prefix, and no attention processors."""
    return keys.start(*_STARTS) and keys.hold(".lora_A.") and not keys.hold(".processor.")


def parse(stored: Stored, target: Target | None, account: Account) -> Parsed:
    """Return the meaning of the keys: looked up in the target's table, or in that of the family that fits best."""
    return parse_named(stored, target, account, NAMING, _split(stored, account))


def compose(adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Refuse: files in this format are only read."""
    del adapter, target
    raise read_only(NAME)


def _split(stored: Stored, account: Account) -> Iterator[tuple[str, str, str]]:
    for key, name, meaning in split_all(stored.tensors, account):
        yield key, name, "set_weight.weight" if meaning == "scale" else meaning


NAMING = Naming(NAME, lambda _model: PREFIXES, ".")
