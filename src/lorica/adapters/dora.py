"""DoRA: the length of each row or column of a weight, learned apart from its direction.

Source: Liu et al. 2024, arXiv:2402.09353.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lorica.adapters.base import AdapterLayer
from lorica.adapters.ia3 import IA3
from lorica.adapters.lora import LoRA
from lorica.errors import ShapeError

Axis = Literal["output", "input"]


class DoRA(AdapterLayer):
    """``delta = magnitude * (W + D) / |W + D| - W`` with ``D`` the delta of another method (eq. 5 of the paper).

    The length is that of the *moved* weight, by rows of outputs or by columns of inputs. At a strength between 0 and 1
    the weight goes in a straight line from the base to this.

    Args:
        inner: the layer that moves the weight: a LoRA, LoCon, LoHa or LoKr.
        magnitude: the lengths: ``(out,)`` or ``(out, 1, ...)`` by outputs, ``(1, in, 1, ...)`` by inputs. PEFT's
            ``(1, out, 1, ...)`` for convolutions is by outputs.
        axis: what the lengths are of, where the shape does not tell; see docs/decisions/0010.

    Raises:
        ShapeError: if the magnitude fits neither axis of the inner layer's weight, or not the given one.
    """

    kind = "dora"
    reads_weight = True
    __slots__ = ("axis", "inner")
    axis: Axis
    inner: AdapterLayer

    def __init__(self, inner: AdapterLayer, magnitude: Tensor, *, axis: Axis | None = None) -> None:
        self.inner = inner
        self.axis = _axis_of(magnitude, inner) if axis is None else axis
        if self.axis == "output" and inner.weight_shape[0] == magnitude.numel():  # one shape for all spellings of it
            magnitude = magnitude.reshape(-1, *[1] * (len(inner.weight_shape) - 1))
        self._hold(inner.alpha, **inner.tensors, magnitude=magnitude)

    @property
    def magnitude(self) -> Tensor:
        """The learned lengths: ``(out, 1, ...)`` by outputs, ``(1, in, 1, ...)`` by inputs."""
        return self.tensors["magnitude"]

    @property
    def rank(self) -> int:
        """The inner layer's rank; the change itself is of full rank."""
        return self.inner.rank

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that the inner layer changes."""
        return self.inner.weight_shape

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether this layer changes a weight of the given shape."""
        return self.inner.fits(shape) and shape[_DIMENSION[self.axis]] == self.magnitude.numel()

    def delta(self, weight: Tensor) -> Tensor:
        """Return the change at strength 1, float32, in the shape of ``weight``."""
        base, moving = weight.float(), self.inner.delta(weight)
        stretch = self._stretch(base + moving)
        return moving * stretch + base * (stretch - 1)

    def parts_on(self, weight: Callable[[], Tensor]) -> tuple[AdapterLayer, ...]:
        """The inner layer's factors times the stretch, and an IA3 of ``stretch - 1``, which scales what ``W`` gives."""
        inner = self.inner.factors()
        if inner is None:
            return (self,)
        base = weight()
        stretch = self._stretch(base.float() + self.inner.delta(base))
        down, up = inner.down.to(base.device, torch.float32), inner.up.to(base.device, torch.float32)
        if self.axis == "output":
            up = up * stretch.view(-1, 1)
        else:
            down = down * stretch.reshape(1, -1, *[1] * (down.ndim - 2))
        up = up.reshape(*up.shape, *[1] * (down.ndim - 2))
        scaled = LoRA(down, up, inner.scaling * len(down))
        return scaled, IA3(stretch.flatten() - 1, self.axis == "input")

    def _stretch(self, moved: Tensor) -> Tensor:
        """``magnitude / |W + D|``, float32, shaped to spread over the weight."""
        kept = _DIMENSION[self.axis]
        length = torch.linalg.vector_norm(moved, dim=[axis for axis in range(moved.ndim) if axis != kept], keepdim=True)
        shape = [-1 if axis == kept else 1 for axis in range(moved.ndim)]
        magnitude = self.magnitude.to(moved.device, torch.float32).reshape(shape)
        return magnitude / length.clamp_min(torch.finfo(torch.float32).tiny)  # a row of zeros stays zeros

    def map(self, change: Callable[[Tensor], Tensor]) -> DoRA:
        """Return the same layer with ``change`` applied to each tensor."""
        return DoRA(self.inner.map(change), change(self.magnitude), axis=self.axis)

    def _check(self) -> None:
        expected = _sizes(self.inner)[self.axis]
        count = self.magnitude.numel()
        if count == 0 or (count != expected if _is_told(self.inner) or self.axis == "output" else expected % count):
            raise ShapeError(
                f"the magnitude has shape {tuple(self.magnitude.shape)}, {count} lengths by {self.axis}, but the "
                f"weight is {self.inner.weight_shape}; expected {expected} of them."
            )


_DIMENSION: dict[Axis, int] = {"output": 0, "input": 1}


def _axis_of(magnitude: Tensor, inner: AdapterLayer) -> Axis:
    """Return the axis that the shape of a magnitude tells, given the weight that it is for."""
    shape, sizes = tuple(magnitude.shape), _sizes(inner)
    if len(shape) < 2 or (shape[0] == sizes["output"] and magnitude.numel() == shape[0]):
        return "output"
    if shape[0] == 1 and magnitude.numel() == shape[1]:
        by_input = shape[1] == sizes["input"] if _is_told(inner) else sizes["input"] % shape[1] == 0
        return "input" if by_input or shape[1] != sizes["output"] else "output"
    raise ShapeError(
        f"the magnitude has shape {shape}; expected (out, 1, ...) or (1, in, 1, ...) for a weight of shape "
        f"{inner.weight_shape}."
    )


def _sizes(inner: AdapterLayer) -> dict[Axis, int]:
    return {axis: inner.weight_shape[dimension] for axis, dimension in _DIMENSION.items()}


def _is_told(inner: AdapterLayer) -> bool:
    """Whether the inner layer knows the weight's width, and not only the kernel's and the width's product."""
    return not inner.fits((*inner.weight_shape[:1], 1, *inner.weight_shape[1:]))
