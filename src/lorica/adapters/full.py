"""A full difference: the change of the weight itself, as fine-tuning or LyCORIS' "full" leaves it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lorica.adapters.base import AdapterLayer
from lorica.adapters.operation import is_operable, operate
from lorica.errors import ShapeError


class Full(AdapterLayer):
    """``delta = diff``.

    Args:
        diff: the change, in the shape of the weight, two dimensions or more.
        bias: change of the bias at strength 1, shape ``(out,)``.

    Raises:
        ShapeError: if ``diff`` has fewer than two dimensions (a norm's is a ``Norm``), or the bias another length.
    """

    kind = "full"
    prefers_bypass = True
    __slots__ = ()

    def __init__(self, diff: Tensor, bias: Tensor | None = None) -> None:
        self._hold(None, diff=diff, bias=bias)

    @property
    def rank(self) -> int:
        """The largest rank that the change can have: the shorter side of the matrix."""
        out, *rest = self.weight_shape
        return min(out, self.tensors["diff"].numel() // out) if rest and out else 0

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that this layer changes."""
        return tuple(self.tensors["diff"].shape)

    def delta(self, weight: Tensor) -> Tensor:
        """Return ``diff`` in float32, in the shape of ``weight``."""
        return self.tensors["diff"].to(weight.device, torch.float32, copy=True).reshape(weight.shape)

    def has_bypass(self, layer: nn.Module) -> bool:
        """Whether the layer is of a known type."""
        return is_operable(layer)

    def bypass(self, x: Tensor, layer: nn.Module, product: Tensor | None = None) -> Tensor | None:
        """The layer's own operation with ``diff`` as its weight; None for an unknown type."""
        del product
        return operate(layer, x, self.tensors["diff"])

    def _check(self) -> None:
        diff = self.tensors["diff"]
        if diff.ndim < 2 or not diff.numel():
            raise ShapeError(f"diff has shape {tuple(diff.shape)}; a full difference has two dimensions or more.")
