"""A weight that takes the place of the base weight (ComfyUI's ``set_weight``)."""

from __future__ import annotations

import torch
from torch import Tensor

from lorica.adapters.base import AdapterLayer
from lorica.errors import ShapeError


class SetWeight(AdapterLayer):
    """``delta = weight - W``: strength 1 puts the new weight in the place of the old, and half-way is the mean.

    ComfyUI replaces the weight whatever the strength is; here the strength counts, as it does for every kind.

    Args:
        weight: the new weight.
        bias: change of the bias at strength 1, shape ``(out,)``.

    Raises:
        ShapeError: if the weight is empty, or the bias has another length.
    """

    kind = "set_weight"
    __slots__ = ()

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._hold(None, weight=weight, bias=bias)

    @property
    def rank(self) -> int:
        """The largest rank that the change can have: the shorter side of the matrix; 1 for a norm's weight."""
        out = self.weight_shape[0]
        return min(out, self.tensors["weight"].numel() // out)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that this layer changes."""
        return tuple(self.tensors["weight"].shape)

    def delta(self, weight: Tensor) -> Tensor:
        """Return the new weight less ``weight``, float32."""
        return self.tensors["weight"].to(weight.device, torch.float32).reshape(weight.shape) - weight.float()

    def _check(self) -> None:
        weight = self.tensors["weight"]
        if weight.ndim == 0 or not weight.numel():
            raise ShapeError(f"the new weight has shape {tuple(weight.shape)}; expected one dimension or more.")
