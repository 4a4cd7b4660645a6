"""The format of HCP-Diffusion: ``lora:<path>.___.layer.lora_down.weight`` and ``.___.alpha``.

Its alpha is the scaling itself: it was divided by the rank before it was stored. A file is of one component, which
the keys of a text encoder and those of a UNet tell; later versions write ``denoiser.`` and ``TE.``.
"""

from __future__ import annotations

import re

from lorica.formats.account import Account
from lorica.formats.dialects.naming import NamedDialect
from lorica.formats.keys_to_modules import Keys, Split
from lorica.formats.methods.leaves import unknown
from lorica.formats.storage.files import FileContents

_KEY = re.compile(r"((lora|base|plugin|unet|TE):)*(?P<name>.+?)\.___\.(layer\.)?(?P<leaf>.+)")
_LEAVES = {
    "lora_down.weight": "lora.down",
    "lora_up.weight": "lora.up",
    "W_down": "lora.down",
    "W_up": "lora.up",
    "lora_up.bias": "bias",
    "bias": "bias",
    "alpha": "scale",
}


class _HCP(NamedDialect):
    def recognises(self, keys: Keys) -> bool:
        return keys.hold(".___.")

    def split(self, contents: FileContents, account: Account) -> Split:
        for key in contents.tensors:
            found = _KEY.fullmatch(key)
            if found:
                yield key, found["name"], _LEAVES.get(found["leaf"]) or unknown(found["leaf"])
            else:
                account.leave([key], "it is not of a plugin: '.___.' stands between a module and its adapter.")


HCP = _HCP(
    name="hcp",
    prefixes={
        "unet": ("", "denoiser"),
        "text_encoder": ("", "TE", "TE.clip_L", "clip_L"),
        "text_encoder_2": ("TE.clip_bigG", "clip_bigG"),
    },
)
