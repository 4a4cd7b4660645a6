"""The bank: all low-rank adapters on one module, stacked along the rank.

``y = layer(x) + ((x . down^T) * strength) . up^T``: any number of adapters costs two thin products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lorica.adapters import AdapterLayer, Factors
from lorica.errors import ModelError

CHILD = "lorica_bank"  # the name of a bank among the children of the layer that it serves
CONVOLUTIONS: dict[type[nn.Module], Any] = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
SERVED = (nn.Linear, nn.Embedding, *CONVOLUTIONS)


@dataclass(frozen=True, slots=True)
class Slot:
    """The rows of a bank that belong to one adapter, and its ``alpha / r``."""

    name: str
    start: int
    stop: int
    scaling: float


class Bank(nn.Module):
    """The stacked factors of the adapters on one layer, and a strength for each row.

    Its tensors are non-persistent buffers: they follow ``.to()`` and never enter a ``state_dict``.

    Shapes: ``down`` ``(R, in, *kernel)``, ``up`` ``(out, R)``, ``strength`` ``(1 or batch, R)`` in float32, which
    already holds each adapter's ``alpha / r``.
    """

    down: Tensor
    up: Tensor
    strength: Tensor

    def __init__(self, layer: nn.Module, factors: Mapping[str, Factors]) -> None:
        super().__init__()
        weight = cast("Tensor", layer.weight)
        dtype = weight.dtype if weight.is_floating_point() else torch.float32
        device = _device_for(weight)
        down = torch.cat([part.down.to(device, dtype) for part in factors.values()])
        up = torch.cat([part.up.to(device, dtype) for part in factors.values()], dim=1)
        self.register_buffer("down", down, persistent=False)
        self.register_buffer("up", up, persistent=False)
        self.register_buffer("strength", torch.zeros(1, len(down), device=down.device), persistent=False)
        self.slots = _slots(factors)
        self._served = (layer,)  # in a tuple, so that the layer does not become a child of its own bank
        self.requires_grad_(False)
        self.train(layer.training)

    def write(self, strengths: Mapping[str, float]) -> None:
        """Set the strength of every adapter; those not named are off."""
        row = torch.zeros(self.strength.shape[1])
        for slot in self.slots:
            row[slot.start : slot.stop] = strengths.get(slot.name, 0.0) * slot.scaling
        if self.strength.shape[0] != 1:
            self.strength = torch.zeros(1, len(row), device=self.down.device)
        self.strength.copy_(row.unsqueeze(0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``y``, the layer's own output for ``x``, with what the adapters add."""
        self._follow(y.device)
        return change_output(self._served[0], x.to(y.device), y, self.down, self.up, self.strength)

    def _follow(self, device: torch.device) -> None:
        """Move to where the layer works now: with CPU offload, a layer computes on another device than it rests on."""
        if self.down.device != device:
            self.to(device)

    def _apply(self, fn: Any, recurse: bool = True) -> Bank:
        """Follow the model's moves and casts; only the strengths stay in float32."""
        before = self.strength
        super()._apply(fn, recurse)
        self.strength = before.to(self.strength.device)
        return self


def change_output(layer: nn.Module, x: Tensor, y: Tensor, down: Tensor, up: Tensor, strength: Tensor | float) -> Tensor:
    """Return ``y + ((x . down^T) * strength) . up^T`` in the layer's own operation.

    Args:
        layer: a Linear, Conv1d, Conv2d, Conv3d or Embedding.
        x: the layer's input.
        y: the layer's output.
        down: ``(R, in, *kernel)``.
        up: ``(out, R)``.
        strength: ``(1 or batch, R)``, or one number for all.
    """
    if isinstance(layer, nn.Embedding):
        hidden = F.embedding(x, up) * _along(strength, x.ndim + 1, last=True)  # (b, *, R)
        return y + (hidden.to(y.dtype) @ down.to(y.dtype))
    if isinstance(layer, nn.Linear):
        hidden = F.linear(x, down) * _along(strength, x.ndim, last=True)  # (b, *, R)
        return y + F.linear(hidden.to(up.dtype), up)
    return y + _change_of_convolution(layer, x, down, up, strength)


def _change_of_convolution(layer: nn.Module, x: Tensor, down: Tensor, up: Tensor, strength: Tensor | float) -> Tensor:
    """Convolve with ``down`` as the layer does, then mix with ``up`` point by point.

    The change of a grouped convolution has the shape of its weight, so every group sees the same ``down`` and its own
    rows of ``up``.
    """
    convolution = cast("nn.Conv2d", layer)
    operation, groups = CONVOLUTIONS[_kind_of(layer)], convolution.groups
    padding: Any = convolution.padding
    if convolution.padding_mode != "zeros":
        x = F.pad(x, convolution._reversed_padding_repeated_twice, mode=convolution.padding_mode)  # type: ignore[reportPrivateUsage]
        padding = 0
    kernels = down.repeat(groups, *[1] * (down.ndim - 1))  # (groups * R, in / groups, *kernel)
    hidden = operation(x, kernels, None, convolution.stride, padding, convolution.dilation, groups)
    scale = _along(strength, x.ndim, last=False)  # (1 or b, R, *ones)
    hidden = hidden * (scale.repeat(1, groups, *[1] * (x.ndim - 2)) if isinstance(scale, Tensor) else scale)
    return operation(hidden.to(up.dtype), up.view(*up.shape, *[1] * (x.ndim - 2)), groups=groups)


def _kind_of(layer: nn.Module) -> type[nn.Module]:
    return next(kind for kind in CONVOLUTIONS if isinstance(layer, kind))


def _along(strength: Tensor | float, ndim: int, *, last: bool) -> Tensor | float:
    """Shape the strengths ``(b, R)`` to multiply a hidden tensor whose rank axis is the last one, or the second."""
    if not isinstance(strength, Tensor):
        return strength
    ones = [1] * (ndim - 2)
    return strength.view(strength.shape[0], *ones, -1) if last else strength.view(strength.shape[0], -1, *ones)


def _device_for(weight: Tensor) -> torch.device:
    """Return where a bank is made: beside the weight, or on the CPU while an offload hook keeps the weight away."""
    return torch.device("cpu") if weight.device.type == "meta" else weight.device


def _slots(factors: Mapping[str, Factors]) -> tuple[Slot, ...]:
    slots: list[Slot] = []
    start = 0
    for name, part in factors.items():
        slots.append(Slot(name, start, start + len(part.down), part.scaling))
        start += len(part.down)
    return tuple(slots)


def check_fits(layer: nn.Module, change: AdapterLayer) -> None:
    """Raise unless a bank on ``layer`` can hold ``change``.

    Raises:
        ModelError: if layers of this type cannot be served, or the change has no thin factors.
        ShapeError: if the change has another shape than the layer's weight.
    """
    if not isinstance(layer, SERVED):
        raise ModelError(
            f"it is a {type(layer).__name__}; adapters act on {', '.join(kind.__name__ for kind in SERVED)}."
        )
    shape = weight_shape(layer)
    if not _same_matrix(change.weight_shape, shape):
        change.check_fits(shape)
    _thin(change)


def factors_for(layer: nn.Module, change: AdapterLayer) -> Factors:
    """Return the factors of a change that fits, ``down`` in the shape that the layer's own operation takes."""
    factors = _thin(change)
    return Factors(factors.down.reshape(-1, *weight_shape(layer)[1:]), factors.up, factors.scaling)


def _thin(change: AdapterLayer) -> Factors:
    factors = change.factors()
    if factors is None:
        raise ModelError(f"an adapter of kind {change.kind!r} has no thin factors to put into a bank.")
    return factors


def weight_shape(layer: nn.Module) -> tuple[int, ...]:
    """Return the shape of a served layer's weight, known also while the weight itself is packed or away."""
    if isinstance(layer, nn.Linear):
        return (layer.out_features, layer.in_features)
    return tuple(cast("Tensor", layer.weight).shape)


def _same_matrix(a: Sequence[int], b: Sequence[int]) -> bool:
    """Tell whether two shapes are one matrix: a Linear's, and a 1 x 1 convolution's (``proj_in`` of SD 1.x and 2.x)."""
    return tuple(a[:2]) == tuple(b[:2]) and all(size == 1 for size in (*a[2:], *b[2:]))
