"""LoCon in files: a LoRA with a Tucker core, ``lora_mid``."""

from __future__ import annotations

from lorica.adapters import LoCon
from lorica.formats.methods.lora import DOWN, UP
from lorica.formats.methods.method import Leaf, Method

LOCON = Method[LoCon](
    layer=LoCon,
    group="lora",
    leaves=(DOWN, UP, Leaf("mid", "lora_mid.weight")),
    patterns=("down up mid",),
    with_magnitude=True,
)
