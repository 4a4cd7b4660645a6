"""BOFT in files: the leaf of an OFT, with a dimension more for the stages of the butterfly."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lorica.adapters import BOFT
from lorica.formats.methods.method import Method
from lorica.formats.methods.oft import BLOCKS, RESCALE


class _BOFTMethod(Method[BOFT]):
    def is_of(self, tensors: Mapping[str, Tensor]) -> bool:
        return tensors["oft.blocks"].ndim == 4


BOFT_METHOD = _BOFTMethod(
    layer=BOFT,
    group="oft",
    leaves=(BLOCKS, RESCALE),
    patterns=("blocks rescale?",),
    alpha="constraint",
    zero_alpha=True,
    can_be_cut=False,
)
