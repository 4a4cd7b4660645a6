"""IA3: a factor for each input or output (Liu et al. 2022, arXiv:2205.05638, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lorica.adapters.base import ANY, AdapterLayer
from lorica.adapters.operation import CONVOLUTIONS, own
from lorica.errors import ShapeError


class IA3(AdapterLayer):
    """``delta[o, i, ...] = W[o, i, ...] * scale[i]`` on the input, ``... * scale[o]`` on the output.

    Args:
        scale: one number for each input or output, in any shape with a single axis longer than 1.
        on_input: which of the two.
        is_factor: the numbers are the factors ``1 + scale`` themselves, and those of outputs multiply the bias too, as
            PEFT trains it. False for LyCORIS, which stores the difference from 1 and leaves the bias.
        bias: change of the bias at strength 1, shape ``(out,)``.

    Raises:
        ShapeError: if ``scale`` has more than one axis.
    """

    kind = "ia3"
    reads_weight = True
    __slots__ = ("is_factor", "on_input")
    is_factor: bool
    on_input: bool

    def __init__(self, scale: Tensor, on_input: bool, *, is_factor: bool = False, bias: Tensor | None = None) -> None:
        self.on_input, self.is_factor = bool(on_input), is_factor
        self._hold(None, scale=scale, bias=bias)

    @property
    def rank(self) -> int:
        """1: one number for each input or output. The change has the rank of the weight itself."""
        return 1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """``(ANY, in)`` or ``(out, ANY)``."""
        count = self.tensors["scale"].numel()
        return (ANY, count) if self.on_input else (count, ANY)

    def bias_delta(self, bias: Tensor | None = None) -> Tensor | None:
        """Return the change of the bias at strength 1, float32: in proportion where the numbers are factors."""
        stored = super().bias_delta()
        if bias is None or self.on_input or not self.is_factor:
            return stored
        own_change = bias.float() * self._scale(bias.float())
        return own_change if stored is None else own_change + stored.to(own_change.device)

    def delta(self, weight: Tensor) -> Tensor:
        """Return the change at strength 1, float32, in the shape of ``weight``."""
        base = weight.float()
        return base * _along(self._scale(base), 1 if self.on_input else 0, base.ndim)

    def parts_on(self, weight: Callable[[], Tensor]) -> tuple[AdapterLayer, ...]:
        """The differences from 1, which keep their digits in half precision where factors near 1 do not."""
        del weight
        if not self.is_factor:
            return (self,)
        return (IA3(self.tensors["scale"].float() - 1, self.on_input),)

    def has_bypass(self, layer: nn.Module) -> bool:
        """Whether it is a layer with inputs and outputs, which a norm is not."""
        return isinstance(layer, (nn.Linear, nn.Embedding, *CONVOLUTIONS))

    def bypass(self, x: Tensor, layer: nn.Module, product: Tensor | None = None) -> Tensor | None:
        """The layer's own operation with its input or its output scaled; None for a norm."""
        if not self.has_bypass(layer):
            return None
        if isinstance(layer, nn.Embedding):  # its inputs choose rows of the weight: outputs, in our reading
            y = own(layer, x) if product is None else product
            return y * (self._scale(y) if self.on_input else self._scale(y)[x].unsqueeze(-1))
        axis = 1 if isinstance(layer, CONVOLUTIONS) else -1
        if self.on_input:
            scale = self._scale(x)
            return own(layer, x * _along(scale.repeat(x.shape[axis] // len(scale)), axis, x.ndim))  # for each group
        y = own(layer, x) if product is None else product
        return y * _along(self._scale(y), axis, y.ndim)

    def _scale(self, like: Tensor) -> Tensor:
        """Return the difference of each factor from 1, as ``like`` is."""
        scale = self.tensors["scale"].flatten().float()
        return (scale - 1 if self.is_factor else scale).to(like.device, like.dtype)

    def _check(self) -> None:
        scale = self.tensors["scale"]
        if not scale.numel() or scale.ndim == 0 or scale.numel() != max(scale.shape):
            raise ShapeError(f"the scale of IA3 has shape {tuple(scale.shape)}; expected a single axis longer than 1.")


def _along(scale: Tensor, axis: int, ndim: int) -> Tensor:
    """Shape one number each to multiply along an axis."""
    shape = [1] * ndim
    shape[axis] = -1
    return torch.reshape(scale, shape)
