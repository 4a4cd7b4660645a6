"""The format of XLabs for Flux: adapters in the attention processors of the double blocks.

``double_blocks.0.processor.qkv_lora1.down.weight``: 1 is the image's side, 2 the text's. There are no alphas.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from lorica.adapters import Adapter
from lorica.formats.account import Account
from lorica.formats.dialects.dialect import Parsed, read_only
from lorica.formats.dialects.naming import Naming, parse_named
from lorica.formats.keys import Keys
from lorica.formats.storage.files import Stored
from lorica.models import Target

NAME = "xlabs"
PREFIXES = {"transformer": ("", "diffusion_model")}
_PROCESSOR = re.compile(
    r"(?P<block>(diffusion_model\.)?(double|single)_blocks\.\d+)\.processor\.(?P<part>\w+)\.(?P<half>down|up)\.weight"
)
# What a processor calls a module to its name in the block.
PARTS = {
    "qkv_lora1": "img_attn.qkv",
    "qkv_lora2": "txt_attn.qkv",
    "proj_lora1": "img_attn.proj",
    "proj_lora2": "txt_attn.proj",
    "qkv_lora": "linear1.qkv",
    "proj_lora": "linear2",
}


def recognises(keys: Keys) -> bool:
    """Tell whether there are processors of double blocks, and none of single blocks."""
    return keys.hold(".processor.qkv_lora1.", ".processor.proj_lora1.", ".processor.qkv_lora2.") and not keys.hold(
        ".processor.qkv_lora.", ".processor.proj_lora."
    )


def parse(stored: Stored, target: Target | None, account: Account) -> Parsed:
    """Return the meaning of the keys: looked up in the target's table, or in that of the family that fits best."""
    return parse_named(stored, target, account, NAMING, split_processors(stored, account))


def compose(adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Refuse: files in this format are only read."""
    del adapter, target
    raise read_only(NAME)


def split_processors(stored: Stored, account: Account) -> Iterator[tuple[str, str, str]]:
    """Yield each key with the name of its module in the original model, and its meaning."""
    for key in stored.tensors:
        found = _PROCESSOR.fullmatch(key)
        part = found and PARTS.get(found["part"])
        if not found or not part:
            account.leave([key], "it is no attention processor that this format knows.")
        else:
            yield key, f"{found['block']}.{part}", f"lora.{found['half']}"


NAMING = Naming(NAME, lambda _model: PREFIXES, ".")
