"""LoCon with a Tucker core: LoRA for convolutions that keeps the kernel in a small core tensor.

Source: LyCORIS (Yeh et al. 2023, arXiv:2309.14859, section 3 and appendix B, "Tucker decomposition").
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorica.adapters.base import AdapterLayer, Factors, shapes_of
from lorica.errors import ShapeError


class LoCon(AdapterLayer):
    """``delta[o, i, *k] = (alpha / r) * sum_pq up[o, p] * mid[p, q, *k] * down[q, i]``.

    Args:
        down: shape ``(r, in, *ones)``.
        mid: the core, shape ``(r, r, *kernel)``.
        up: shape ``(out, r, *ones)``.
        alpha: strength stored in the file; None stands for ``r``.
        bias: change of the bias at strength 1, shape ``(out,)``; the scaling is already in it.

    Raises:
        ShapeError: if the three do not fit each other.
    """

    kind = "locon"
    __slots__ = ()

    def __init__(
        self, down: Tensor, mid: Tensor, up: Tensor, alpha: float | None = None, *, bias: Tensor | None = None
    ) -> None:
        self._hold(alpha, down=down, mid=mid, up=up, bias=bias)

    @property
    def rank(self) -> int:
        """The inner size ``r``."""
        return self.tensors["down"].shape[0]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that this layer changes, ``(out, in, *kernel)``."""
        return (self.tensors["up"].shape[0], self.tensors["down"].shape[1], *self.tensors["mid"].shape[2:])

    def delta(self, weight: Tensor) -> Tensor:
        """Return the change at strength 1, float32, in the shape of ``weight``."""
        down, up, scaling = self.factors()
        return ((up.float() @ down.flatten(1)).view(weight.shape) * scaling).to(weight.device)

    def factors(self) -> Factors:
        """Return the core folded into ``down`` in float32: thin factors of the same rank."""
        down = self.tensors["down"].float().flatten(1)  # (r, in)
        folded = torch.einsum("pq...,qi->pi...", self.tensors["mid"].float(), down)  # (r, in, *kernel)
        return Factors(folded, self.tensors["up"].flatten(1), self.alpha / self.rank)

    def _check(self) -> None:
        down, mid, up = (self.tensors[name] for name in ("down", "mid", "up"))
        shapes = shapes_of({"down": down, "mid": mid, "up": up})
        if not mid.ndim == down.ndim == up.ndim >= 3:
            raise ShapeError(f"a Tucker core needs three convolution tensors of equal dimensions, got {shapes}.")
        rank = down.shape[0]
        if rank == 0 or mid.shape[:2] != (rank, rank) or up.shape[1] != rank:
            raise ShapeError(f"the ranks differ: expected mid (r, r, *kernel) and up (out, r, 1, 1), got {shapes}.")
        if any(size != 1 for size in (*down.shape[2:], *up.shape[2:])):
            raise ShapeError(f"with a Tucker core, down and up must be 1 x 1 convolutions, got {shapes}.")
