"""The formula of a bank: what the stacked factors of any number of adapters add to the output of a layer.

``y = layer(x) + ((x . down^T) * s) . up^T``, with one strength ``s`` for each row of the factors, and perhaps for each
sample or each point of the picture. Faster forms of the same stand in ``fast.py``, and a contract test holds them equal.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lorica.adapters.operation import CONVOLUTIONS, convolution_of, convolve

Strength = Tensor | float


def change(layer: nn.Module, x: Tensor, y: Tensor, down: Tensor, up: Tensor, strength: Strength) -> Tensor:
    """``y`` with what the factors add, a new tensor; with gradients, for every layer and in every precision.

    Args:
        layer: a Linear, Conv1d, Conv2d, Conv3d or Embedding.
        x: the layer's input.
        y: the layer's output.
        down: ``(R, in, *kernel)``.
        up: ``(out, R)``.
        strength: ``(1 or batch, R)``; or shaped to spread over the hidden tensor, ``(1 or b, *points, R)`` (channels
            second: ``(1 or b, R, *points)``), for a strength at each point; or one number.
    """
    dtype = x.dtype if x.is_floating_point() else y.dtype
    if dtype != down.dtype and not torch.is_autocast_enabled(y.device.type):
        down, up = down.to(dtype), up.to(dtype)
    if isinstance(layer, nn.Embedding):
        hidden = F.embedding(x, up) * along(strength, x.ndim + 1, last=True)  # (b, *, R)
        return y + (hidden.to(y.dtype) @ down.to(y.dtype))
    if isinstance(layer, nn.Linear):
        hidden = F.linear(x, down) * along(strength, x.ndim, last=True)  # (b, *, R)
        return y + F.linear(hidden.to(up.dtype), up)
    # The change of a grouped convolution has the shape of its weight: every group sees the same down, its own rows of up.
    groups = int(getattr(layer, "groups", 1))
    kernels = down.repeat(groups, *[1] * (down.ndim - 1)) if groups > 1 else down  # (groups * R, in / groups, *kernel)
    hidden = convolve(layer, x, kernels, groups)
    scale = along(strength, x.ndim, last=False)  # (1 or b, R, *ones)
    hidden = hidden * (scale.repeat(1, groups, *[1] * (x.ndim - 2)) if isinstance(scale, Tensor) else scale)
    mix = up.reshape(*up.shape, *[1] * (x.ndim - 2))
    return y + convolution_of(layer)(hidden.to(up.dtype), mix, groups=groups)


def along(strength: Strength, ndim: int, *, last: bool) -> Strength:
    """Strengths ``(1 or b, R)`` shaped for a hidden tensor whose rank axis is the last of ``ndim``, or the second.

    Strengths with more axes (one for each point of a picture) have the shape of such a tensor already.
    """
    if not isinstance(strength, Tensor) or strength.ndim > 2:
        return strength
    ones = [1] * (ndim - 2)
    return strength.view(len(strength), *ones, -1) if last else strength.view(len(strength), -1, *ones)


def is_channels_second(layer: nn.Module) -> bool:
    """Whether the channels of a layer's output are its second axis, and not its last."""
    return isinstance(layer, (*CONVOLUTIONS, nn.GroupNorm))
