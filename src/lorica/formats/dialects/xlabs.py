"""The format of XLabs for Flux: adapters in the attention processors of the double blocks.

``double_blocks.0.processor.qkv_lora1.down.weight``: 1 is the image's side, 2 the text's. There are no alphas.
"""

from __future__ import annotations

import re

from lorica.formats.account import Account
from lorica.formats.dialects.naming import NamedDialect
from lorica.formats.keys_to_modules import Keys, Split
from lorica.formats.storage.files import FileContents

_PROCESSOR = re.compile(
    r"(?P<block>(diffusion_model\.)?(double|single)_blocks\.\d+)\.processor\.(?P<part>\w+)\.(?P<half>down|up)\.weight"
)
# What a processor calls a module to its name in the block.
_NAMES = {
    "qkv_lora1": "img_attn.qkv",
    "qkv_lora2": "txt_attn.qkv",
    "proj_lora1": "img_attn.proj",
    "proj_lora2": "txt_attn.proj",
    "qkv_lora": "linear1.qkv",
    "proj_lora": "linear2",
}


class ProcessorDialect(NamedDialect):
    """LoRAs in attention processors, with the original model's names."""

    def recognises(self, keys: Keys) -> bool:
        """Whether there are processors of double blocks, and none of single blocks."""
        double = keys.hold(".processor.qkv_lora1.", ".processor.proj_lora1.", ".processor.qkv_lora2.")
        return double and not keys.hold(".processor.qkv_lora.", ".processor.proj_lora.")

    def split(self, contents: FileContents, account: Account) -> Split:
        """Each key with the name of its module in the original model, and its meaning."""
        for key in contents.tensors:
            found = _PROCESSOR.fullmatch(key)
            name = found and _NAMES.get(found["part"])
            if not found or not name:
                account.leave([key], "it is no attention processor that this format knows.")
            else:
                yield key, f"{found['block']}.{name}", f"lora.{found['half']}"


XLABS = ProcessorDialect(name="xlabs", prefixes={"transformer": ("", "diffusion_model")})
