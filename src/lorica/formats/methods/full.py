"""Full differences in files: ``diff``."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lorica.adapters import Full
from lorica.formats.methods.method import Leaf, Method


class _FullMethod(Method[Full]):
    def is_of(self, tensors: Mapping[str, Tensor]) -> bool:
        return tensors["full.diff"].ndim != 1  # which is a norm's

    def changes(self, layer: Full) -> bool:
        # Of a fused weight such files have zeros for parts that were not trained.
        return bool(layer.tensors["diff"].any())


FULL = _FullMethod(
    layer=Full, group="full", leaves=(Leaf("diff", "diff", by_rows=True),), patterns=("diff",), alpha=None
)
