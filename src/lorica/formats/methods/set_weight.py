"""Replaced weights in files: ``set_weight`` of ComfyUI."""

from __future__ import annotations

from lorica.adapters import SetWeight
from lorica.formats.methods.method import Leaf, Method

SET_WEIGHT = Method[SetWeight](
    layer=SetWeight,
    group="set_weight",
    leaves=(Leaf("weight", "set_weight", by_rows=True),),
    patterns=("weight",),
    alpha=None,
)
