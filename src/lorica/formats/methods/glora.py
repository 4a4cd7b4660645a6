"""GLoRA in files: ``a1``, ``a2``, ``b1``, ``b2``, of LyCORIS alone."""

from __future__ import annotations

from lorica.adapters import GLoRA
from lorica.formats.methods.method import Leaf, Method

GLORA = Method[GLoRA](
    layer=GLoRA,
    group="glora",
    leaves=(
        Leaf("a1", "a1.weight"), Leaf("a2", "a2.weight"), Leaf("b1", "b1.weight", by_rows=True),
        Leaf("b2", "b2.weight"), Leaf("mid", "bm.weight"),
    ),
    patterns=("a1 a2 b1 b2 mid?",),
)  # fmt: skip
