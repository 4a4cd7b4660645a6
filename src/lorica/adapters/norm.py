"""A difference for a normalisation layer: its one-dimensional weight, and perhaps its bias (LyCORIS' "norm")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lorica.adapters.base import AdapterLayer
from lorica.adapters.operation import is_operable, operate
from lorica.errors import ShapeError


class Norm(AdapterLayer):
    """``delta = diff``, for the weight of a LayerNorm, GroupNorm or RMSNorm.

    Args:
        diff: the change of the weight, shape ``(n,)``.
        bias: change of the bias at strength 1, shape ``(n,)``.

    Raises:
        ShapeError: if ``diff`` is not one-dimensional, or the bias has another length.
    """

    kind = "norm"
    __slots__ = ()

    def __init__(self, diff: Tensor, bias: Tensor | None = None) -> None:
        self._hold(None, diff=diff, bias=bias)

    @property
    def rank(self) -> int:
        """1: a norm's weight is one row of numbers."""
        return 1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that this layer changes, ``(n,)``."""
        return tuple(self.tensors["diff"].shape)

    def delta(self, weight: Tensor) -> Tensor:
        """Return ``diff`` in float32."""
        return self.tensors["diff"].to(weight.device, torch.float32, copy=True).reshape(weight.shape)

    def has_bypass(self, layer: nn.Module) -> bool:
        """Whether the norm is of a known type."""
        return is_operable(layer)

    def bypass(self, x: Tensor, layer: nn.Module, product: Tensor | None = None) -> Tensor | None:
        """The normalised input times ``diff``; None for a norm of an unknown type."""
        del product
        return operate(layer, x, self.tensors["diff"])

    def _check(self) -> None:
        diff = self.tensors["diff"]
        if diff.ndim != 1 or not diff.numel():
            raise ShapeError(
                f"diff has shape {tuple(diff.shape)}; the weight of a normalisation layer has one dimension."
            )
