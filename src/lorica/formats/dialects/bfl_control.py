"""The format of Black Forest Labs' control adapters for Flux (depth, canny): the original model's names, no prefix.

``double_blocks.0.img_attn.qkv.lora_A.weight``, with biases, and norms whose weights are replaced (``..._norm.scale``).
The first layer takes twice the channels: the adapter is for a model with that input.
"""

from __future__ import annotations

from lorica.formats.account import Account
from lorica.formats.dialects.naming import NamedDialect
from lorica.formats.keys_to_modules import Keys, Split
from lorica.formats.storage.files import FileContents


class _BFLControl(NamedDialect):
    def recognises(self, keys: Keys) -> bool:
        return super().recognises(keys) and keys.hold(".lora_A.") and not keys.hold(".processor.")

    def split(self, contents: FileContents, account: Account) -> Split:
        # What is a scale elsewhere is the new weight of a norm here.
        for key, name, meaning in super().split(contents, account):
            yield key, name, "set_weight.weight" if meaning == "scale" else meaning


BFL_CONTROL = _BFLControl(
    name="bfl_control",
    starts=("double_blocks.", "single_blocks.", "img_in.", "final_layer."),
    prefixes={"transformer": ("",)},
)
