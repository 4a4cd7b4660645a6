"""OFTv2: each block of inputs is turned before the weight sees it (Qiu et al. 2025, arXiv:2506.19847).

The layout is that of OneTrainer and PEFT: the skew-symmetric matrices as vectors, the rotation as a truncated series.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from lorica.adapters.base import ANY, AdapterLayer
from lorica.adapters.operation import own
from lorica.adapters.rotation import block_size, cayley, neumann, skew_of_vectors, turn
from lorica.errors import ShapeError


class OFTv2(AdapterLayer):
    """``delta = W (R^T - I)`` by blocks of inputs: the layer sees ``x R`` in the place of ``x`` (``x`` a row).

    ``R = I + 2 Q + 2 Q^2 + 2 Q^3 + Q^4`` with the default of five terms, which is what OneTrainer and PEFT train and so
    what reproduces their pictures; for a large ``Q`` it is no rotation any more. The inputs of a convolution are its
    channels and kernel, flattened.

    Args:
        vectors: the numbers above the diagonals of ``Q``, shape ``(n, b * (b - 1) / 2)``, row by row.
        in_features: ``in * kernel``; needed when one block is shared, else it is ``n * b``.
        scaled: the vectors count divided by ``2 * sqrt(b - 1)`` (OneTrainer's ``scaled_oft``).
        shared: one block turns all inputs.
        terms: terms of the series, or None for PEFT's ``use_cayley_neumann=False``: ``R = (I - Q)(I + Q)^-1``.
        turns_kernel: OneTrainer turns the weight of a convolution itself, ``delta = W (R - I)``; False for PEFT, which
            turns its inputs as those of a Linear.
        bias: change of the bias at strength 1, shape ``(out,)``.

    Raises:
        ShapeError: if the vectors are no triangles, or the blocks do not fill the inputs.
    """

    kind = "oft_v2"
    reads_weight = True
    __slots__ = ("in_features", "scaled", "shared", "terms", "turns_kernel")
    in_features: int
    scaled: bool
    shared: bool
    terms: int | None
    turns_kernel: bool

    def __init__(  # what trainers may set
        self,
        vectors: Tensor,
        *,
        in_features: int | None = None,
        scaled: bool = False,
        shared: bool = False,
        terms: int | None = 5,
        turns_kernel: bool = True,
        bias: Tensor | None = None,
    ) -> None:
        self.in_features = len(vectors) * _size(vectors) if in_features is None else in_features
        self.scaled, self.shared, self.terms, self.turns_kernel = scaled, shared, terms, turns_kernel
        self._hold(None, vectors=vectors, bias=bias)

    @property
    def rank(self) -> int:
        """The size ``b`` of a block."""
        return _size(self.tensors["vectors"])

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """``(ANY, in * kernel)``."""
        return (ANY, self.in_features)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the inputs and kernel of a weight of the given shape are as many as the blocks turn."""
        return len(shape) > 1 and super().fits((shape[0], math.prod(shape[1:])))

    def delta(self, weight: Tensor) -> Tensor:
        """Return the change at strength 1, float32, in the shape of ``weight``."""
        blocks = self._blocks().to(weight.device)
        turned = blocks if self.turns_kernel and weight.ndim > 2 else blocks.transpose(1, 2)
        return turn(weight.float().flatten(1), turned).view(weight.shape)

    def has_bypass(self, layer: nn.Module) -> bool:
        """Whether it is a Linear: it turns inputs."""
        return isinstance(layer, nn.Linear)

    def bypass(self, x: Tensor, layer: nn.Module, product: Tensor | None = None) -> Tensor | None:
        """What a Linear makes of what turning its input adds; None for other layers."""
        del product
        if not isinstance(layer, nn.Linear):
            return None
        return own(layer, turn(x, self._blocks().to(x.device)).to(x.dtype))

    def _blocks(self) -> Tensor:
        """Return ``R - I`` of every block, ``(in / b, b, b)``, in float32."""
        size = self.rank
        q = skew_of_vectors(self.tensors["vectors"]) / (2 * math.sqrt(size - 1) if self.scaled else 1)
        turned = cayley(-q) if self.terms is None else neumann(q, self.terms)
        return turned.expand(self.in_features // size, size, size)

    def _check(self) -> None:
        vectors, size = self.tensors["vectors"], _size(self.tensors["vectors"])
        filled = size if self.shared else len(vectors) * size
        if self.in_features % filled or (not self.shared and filled != self.in_features):
            raise ShapeError(
                f"{len(vectors)} blocks of {size} from vectors {tuple(vectors.shape)} do not fill {self.in_features} "
                "inputs; if one block is shared by all, say so."
            )
        if self.shared and len(vectors) != 1:
            raise ShapeError(f"a shared block is one vector, got vectors {tuple(vectors.shape)}.")
        if self.terms is not None and self.terms < 3:
            raise ShapeError(f"the series needs 3 terms or more, got {self.terms}.")


def _size(vectors: Tensor) -> int:
    size = block_size(vectors.shape[1]) if vectors.ndim == 2 and len(vectors) else None
    if size is None:
        raise ShapeError(
            f"the vectors of OFTv2 have shape {tuple(vectors.shape)}; expected (n, b * (b - 1) / 2) for a block size b."
        )
    return size
