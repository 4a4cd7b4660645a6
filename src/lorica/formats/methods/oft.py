"""OFT in files: ``oft_blocks`` of LyCORIS and Kohya's scripts, or ``oft_diag``, the rotations of LyCORIS before 2.0.

The alpha is the constraint, and 0 means none.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lorica.adapters import OFT
from lorica.errors import FormatError
from lorica.formats.methods.method import Leaf, Method

BLOCKS = Leaf("blocks", "oft_blocks")
RESCALE = Leaf("rescale", "rescale", by_rows=True)


class _OFTMethod(Method[OFT]):
    def is_of(self, tensors: Mapping[str, Tensor]) -> bool:
        # Blocks in several rows are the stages of a butterfly, which has the same leaf.
        return "oft.blocks" not in tensors or tensors["oft.blocks"].ndim != 4

    def heights(self, layer: OFT) -> dict[str, int]:
        stored = "rotations" if "rotations" in layer.tensors else "blocks"
        if layer.alpha and stored == "blocks":
            raise FormatError("an OFT layer whose blocks share one constraint cannot be cut into several modules.")
        return {f"oft.{stored}": layer.rank, **super().heights(layer)}


OFT_METHOD = _OFTMethod(
    layer=OFT,
    group="oft",
    leaves=(BLOCKS, Leaf("rotations", "oft_diag"), RESCALE),
    patterns=("blocks rescale?", "rotations rescale?"),
    alpha="constraint",
    zero_alpha=True,
)
