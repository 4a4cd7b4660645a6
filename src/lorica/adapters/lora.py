"""LoRA on Linear, Conv and Embedding layers (Hu et al. 2021, arXiv:2106.09685, eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from lorica.adapters.base import AdapterLayer, Factors
from lorica.errors import ShapeError


class LoRA(AdapterLayer):
    """``delta = (alpha / r) * up @ down``: two thin matrices in place of a full change.

    An Embedding's weight ``(num, dim)`` is read like a Linear's: ``up`` is ``(num, r)``, ``down`` is ``(r, dim)``.

    Args:
        down: the ``A`` of the paper, shape ``(r, in, *kernel)``.
        up: the ``B`` of the paper, shape ``(out, r, *ones)``.
        alpha: strength stored in the file; ``alpha / r`` is the ``scaling``. None stands for ``r``.
        bias: change of the bias at strength 1, shape ``(out,)``; the scaling is already in it.

    Raises:
        ShapeError: if the two ranks or the numbers of dimensions differ, or the bias has another length.
    """

    kind = "lora"
    __slots__ = ()

    def __init__(self, down: Tensor, up: Tensor, alpha: float | None = None, *, bias: Tensor | None = None) -> None:
        self._hold(alpha, down=down, up=up, bias=bias)

    @property
    def down(self) -> Tensor:
        """The ``A`` of the paper, ``(r, in, *kernel)``."""
        return self.tensors["down"]

    @property
    def up(self) -> Tensor:
        """The ``B`` of the paper, ``(out, r, *ones)``."""
        return self.tensors["up"]

    @property
    def rank(self) -> int:
        """The inner size ``r``."""
        return self.down.shape[0]

    @property
    def scaling(self) -> float:
        """``alpha / r``."""
        return self.alpha / self.rank

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that this layer changes, ``(out, in, *kernel)``."""
        return (self.up.shape[0], *self.down.shape[1:])

    def delta(self, weight: Tensor) -> Tensor:
        """Return ``(alpha / r) * up @ down``, float32, in the shape of ``weight``."""
        down, up = (part.to(weight.device, torch.float32).flatten(1) for part in (self.down, self.up))
        return (up @ down).view(weight.shape) * self.scaling

    def factors(self) -> Factors:
        """Return the two matrices themselves."""
        down, up = self.tensors["down"], self.tensors["up"]
        return Factors(down, up if up.ndim == 2 else up.flatten(1), self.alpha / down.shape[0])

    def _check(self) -> None:
        down, up = self.tensors["down"], self.tensors["up"]
        if down.ndim < 2 or up.ndim != down.ndim:
            raise ShapeError(
                f"down has shape {tuple(down.shape)} and up has shape {tuple(up.shape)}; both must have the same "
                "number of dimensions, 2 for a Linear and 3 to 5 for a Conv."
            )
        if down.shape[0] != up.shape[1]:
            raise ShapeError(
                f"down has rank {down.shape[0]} (shape {tuple(down.shape)}) "
                f"but up has rank {up.shape[1]} (shape {tuple(up.shape)}); they must be equal."
            )
        if down.shape[0] == 0:
            raise ShapeError(f"down has rank 0 (shape {tuple(down.shape)}); the rank must be at least 1.")
        if up.ndim > 2 and any(size != 1 for size in up.shape[2:]):
            raise ShapeError(f"up has shape {tuple(up.shape)}; after (out, r) each size must be 1.")
