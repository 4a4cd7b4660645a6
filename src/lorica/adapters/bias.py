"""A change of a bias alone: the weight stays as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from lorica.adapters.base import ANY, AdapterLayer
from lorica.errors import ShapeError


class BiasOnly(AdapterLayer):
    """``delta = 0`` and ``b' = b + strength * bias``.

    Args:
        bias: change of the bias at strength 1, shape ``(out,)``.

    Raises:
        ShapeError: if it is not one-dimensional.
    """

    kind = "bias"
    __slots__ = ()

    def __init__(self, bias: Tensor) -> None:
        self._hold(None, bias=bias)

    @property
    def rank(self) -> int:
        """0: the weight does not change."""
        return 0

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """``(out, ANY)``; a norm's one-dimensional weight fits too."""
        return (len(self.tensors["bias"]), ANY)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a weight of the given shape has as many outputs as this bias has numbers."""
        return len(shape) > 0 and shape[0] == len(self.tensors["bias"])

    def delta(self, weight: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(weight, dtype=torch.float32)

    def _check(self) -> None:
        bias = self.tensors["bias"]
        if bias.ndim != 1 or not len(bias):
            raise ShapeError(f"the change of the bias has shape {tuple(bias.shape)}; expected one dimension.")
