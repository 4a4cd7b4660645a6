"""What a layer computes, with another weight in the place of its own and without its bias.

Every layer that adapters act on is linear in its weight, so the change of its output is the layer's own operation with
the change of its weight: the roads of the methods that need not build that change are made of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FUNCTIONS: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)


def operate(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor | None:
    """Output of ``layer`` for ``x`` with ``weight`` as its weight and no bias; None for an unknown type.

    Args:
        layer: a Linear, Conv1d, Conv2d, Conv3d, Embedding, LayerNorm, GroupNorm or RMSNorm.
        x: its input; the weight is cast to where and what it is.
        weight: in the shape of the layer's own, or of the same number of elements.
    """
    operation = _operation_of(layer)
    if operation is None:
        return None
    dtype = x.dtype if x.is_floating_point() else weight.dtype
    return operation(layer, x, weight.to(x.device, dtype))


def is_operable(layer: nn.Module) -> bool:
    """Whether :func:`operate` knows the type of a layer."""
    return _operation_of(layer) is not None


def own(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)`` without its bias, and without its hooks, for a Linear, convolution or Embedding.

    A weight that is packed, or away with an offload hook, is left to the layer's own ``forward``, which unpacks or
    fetches it; what that gives for zeros is the bias.
    """
    weight = cast("Tensor", layer.weight)
    if weight.is_floating_point() and weight.device.type != "meta" and type(weight) in (nn.Parameter, Tensor):
        return cast("Tensor", operate(layer, x, weight))
    forward: Callable[[Tensor], Tensor] = layer.forward
    if getattr(layer, "bias", None) is None:
        return forward(x)
    return forward(x) - forward(torch.zeros_like(x[:1]))


def mixes_channels(layer: nn.Module) -> bool:
    """Whether every output of a layer sees all its inputs: a Linear, or a convolution without groups."""
    if isinstance(layer, CONVOLUTIONS):
        return cast("nn.Conv2d", layer).groups == 1
    return isinstance(layer, nn.Linear)


def thin(layer: nn.Module, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Output of a Linear or ungrouped convolution of weight ``up @ down``, without building it.

    Shapes: ``down (r, in, *kernel)``, ``up (out, r)``.
    """
    if isinstance(layer, nn.Linear):
        return F.linear(F.linear(x, down.flatten(1)), up)
    return torch.einsum("or,br...->bo...", up, convolve(layer, x, down, 1))


def channels_last(layer: nn.Module, y: Tensor) -> Tensor:
    """Return a layer's input or output with the channels as the last axis; its own inverse for convolutions."""
    return y.transpose(1, -1) if isinstance(layer, CONVOLUTIONS) else y


def convolution_of(layer: nn.Module) -> Callable[..., Tensor]:
    """Return the function of ``torch.nn.functional`` that a convolution computes."""
    return next(function for kind, function in zip(CONVOLUTIONS, _FUNCTIONS, strict=True) if isinstance(layer, kind))


def convolve(layer: nn.Module, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Return the convolution of ``x`` with ``weight``, padded, strided and dilated as the layer does it."""
    convolution = cast("nn.Conv2d", layer)
    padding: Any = convolution.padding
    if convolution.padding_mode != "zeros":
        x = F.pad(x, convolution._reversed_padding_repeated_twice, mode=convolution.padding_mode)  # type: ignore[reportPrivateUsage]
        padding = 0
    return convolution_of(layer)(x, weight, None, convolution.stride, padding, convolution.dilation, groups)


def _convolution(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    return convolve(layer, x, weight.reshape(layer.weight.shape), layer.groups)


_OPERATIONS: tuple[tuple[Any, Callable[[Any, Tensor, Tensor], Tensor]], ...] = (
    (nn.Linear, lambda layer, x, weight: F.linear(x, weight.reshape(layer.out_features, layer.in_features))),
    (nn.Embedding, lambda _, x, weight: F.embedding(x, weight)),
    (nn.LayerNorm, lambda layer, x, weight: F.layer_norm(x, layer.normalized_shape, weight, None, layer.eps)),
    (nn.GroupNorm, lambda layer, x, weight: F.group_norm(x, layer.num_groups, weight, None, layer.eps)),
    (nn.RMSNorm, lambda layer, x, weight: F.rms_norm(x, layer.normalized_shape, weight, layer.eps)),
    (CONVOLUTIONS, _convolution),
)


def _operation_of(layer: nn.Module) -> Callable[[Any, Tensor, Tensor], Tensor] | None:
    found = next((operation for kind, operation in _OPERATIONS if isinstance(layer, kind)), None)
    if found is None and type(layer).__name__ == "RMSNorm" and hasattr(layer, "dim"):  # diffusers' own
        return lambda norm, x, weight: F.rms_norm(x.float(), tuple(norm.dim), weight.float(), norm.eps)
    return found
