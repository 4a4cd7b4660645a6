"""The two thin products: what factors add to the output of a layer, in the layer's own operation.

``y + ((x . down^T) * strength) . up^T``, with one strength for each row of the factors, and perhaps for each sample.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lorica.adapters.operation import convolution_of, convolve


def change_output(layer: nn.Module, x: Tensor, y: Tensor, down: Tensor, up: Tensor, strength: Tensor | float) -> Tensor:
    """Return ``y + ((x . down^T) * strength) . up^T``, a new tensor.

    Args:
        layer: a Linear, Conv1d, Conv2d, Conv3d or Embedding.
        x: the layer's input.
        y: the layer's output.
        down: ``(R, in, *kernel)``.
        up: ``(out, R)``.
        strength: ``(1 or batch, R)``, or one number for all.
    """
    if isinstance(layer, nn.Embedding):
        hidden = F.embedding(x, up) * along(strength, x.ndim + 1, last=True)  # (b, *, R)
        return y + (hidden.to(y.dtype) @ down.to(y.dtype))
    if isinstance(layer, nn.Linear):
        hidden = F.linear(x, down) * along(strength, x.ndim, last=True)  # (b, *, R)
        return y + F.linear(hidden.to(up.dtype), up)
    return y + _change_of_convolution(layer, x, down, up, strength)


@torch.no_grad()
def change_in_place(layer: nn.Module, x: Tensor, y: Tensor, down: Tensor, up: Tensor, strength: Tensor) -> Tensor:
    """Do as :func:`change_output`, adding into ``y`` itself where its layout allows; no gradients."""
    if not (y.dtype == up.dtype == x.dtype) or isinstance(layer, nn.Embedding):
        return change_output(layer, x, y, down, up, strength)
    if isinstance(layer, nn.Linear):
        if not y.is_contiguous():
            return change_output(layer, x, y, down, up, strength)
        hidden = F.linear(x, down).mul_(along(strength, x.ndim, last=True))
        y.view(-1, y.shape[-1]).addmm_(hidden.view(-1, len(down)), up.T)
        return y
    if getattr(layer, "groups", 1) != 1:
        return change_output(layer, x, y, down, up, strength)
    hidden = convolve(layer, x, down, 1).mul_(along(strength, x.ndim, last=False))  # (b, R, *)
    return _mix_points(y, hidden, up)


def _mix_points(y: Tensor, hidden: Tensor, up: Tensor) -> Tensor:
    """Add ``up @ hidden`` at every point of a picture into ``y``, ``(b, out, *)``, whichever way it lies in memory."""
    if y.is_contiguous():
        y.flatten(2).baddbmm_(up.expand(len(y), -1, -1), hidden.flatten(2))
        return y
    points, seen = y.movedim(1, -1), hidden.movedim(1, -1)
    if points.is_contiguous():  # channels last
        points.view(-1, len(up)).addmm_(seen.reshape(-1, up.shape[1]), up.T)
        return y
    return y + torch.matmul(up, hidden.flatten(2)).view(y.shape)


def _change_of_convolution(layer: nn.Module, x: Tensor, down: Tensor, up: Tensor, strength: Tensor | float) -> Tensor:
    """Convolve with ``down`` as the layer does, then mix with ``up`` point by point.

    The change of a grouped convolution has the shape of its weight, so every group sees the same ``down`` and its own
    rows of ``up``.
    """
    groups = int(getattr(layer, "groups", 1))
    kernels = down.repeat(groups, *[1] * (down.ndim - 1)) if groups > 1 else down  # (groups * R, in / groups, *kernel)
    hidden = convolve(layer, x, kernels, groups)
    scale = along(strength, x.ndim, last=False)  # (1 or b, R, *ones)
    hidden = hidden * (scale.repeat(1, groups, *[1] * (x.ndim - 2)) if isinstance(scale, Tensor) else scale)
    return convolution_of(layer)(hidden.to(up.dtype), up.reshape(*up.shape, *[1] * (x.ndim - 2)), groups=groups)


def along(strength: Tensor | float, ndim: int, *, last: bool) -> Tensor | float:
    """Shape strengths ``(1 or b, R)`` for a hidden tensor whose rank axis is the last of ``ndim``, or the second.

    Strengths with more axes (one for each point of a picture) have the shape of such a tensor already.
    """
    if not isinstance(strength, Tensor) or strength.ndim > 2:
        return strength
    ones = [1] * (ndim - 2)
    return strength.view(len(strength), *ones, -1) if last else strength.view(len(strength), -1, *ones)
