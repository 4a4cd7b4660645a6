"""The format of HCP-Diffusion: ``lora:<path>.___.layer.lora_down.weight`` and ``.___.alpha``.

Its alpha is the scaling itself: it was divided by the rank before it was stored. A file is of one component, which
the keys of a text encoder and those of a UNet tell; later versions write ``denoiser.`` and ``TE.``.
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
from lorica.formats.methods.leaves import unknown
from lorica.formats.storage.files import Stored
from lorica.models import Target

NAME = "hcp"
# What stands before a path, by component; the first version names none.
PREFIXES = {
    "unet": ("", "denoiser"),
    "text_encoder": ("", "TE", "TE.clip_L", "clip_L"),
    "text_encoder_2": ("TE.clip_bigG", "clip_bigG"),
}
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


def recognises(keys: Keys) -> bool:
    """Tell whether any key has the mark of a plugin."""
    return keys.hold(".___.")


def parse(stored: Stored, target: Target | None, account: Account) -> Parsed:
    """Return the meaning of the keys: looked up in the target's table, or in that of the family that fits best."""
    return parse_named(stored, target, account, NAMING, _split(stored, account))


def compose(adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Refuse: files in this format are only read."""
    del adapter, target
    raise read_only(NAME)


def _split(stored: Stored, account: Account) -> Iterator[tuple[str, str, str]]:
    for key in stored.tensors:
        found = _KEY.fullmatch(key)
        if found:
            yield key, found["name"], _LEAVES.get(found["leaf"]) or unknown(found["leaf"])
        else:
            account.leave([key], "it is not of a plugin: '.___.' stands between a module and its adapter.")


NAMING = Naming(NAME, lambda _model: PREFIXES, ".")
