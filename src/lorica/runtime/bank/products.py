"""The two thin products: what factors add to the output of a layer, in the layer's own operation.

``y + ((x . down^T) * strength) . up``, with one strength for each row of the factors, and perhaps for each sample.
:func:`change_output` is the formula for every layer; the functions that :func:`adding` returns add the same into ``y``
itself, with as few operations as there can be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lorica.adapters.operation import CONVOLUTIONS, convolution_of, convolve

Strength = Tensor | float  # ``(1 or batch, R)``, or one number for all
WORK_FOR_ONEDNN = 2**22  # multiplications, of a convolution with stride 1

Adding = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor, Strength], Tensor]


def change_output(layer: nn.Module, x: Tensor, y: Tensor, down: Tensor, up: Tensor, strength: Strength) -> Tensor:
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


def adding(layer: nn.Module) -> Adding | None:
    """Return what adds the change into a layer's output; None where only :func:`change_output` knows the way.

    It takes the arguments of :func:`change_output`, but ``up`` as ``(R, out)``, all in one precision. Where the memory
    of ``y`` is laid out in another way it returns a new tensor.
    """
    if isinstance(layer, nn.Linear):
        return _add_to_linear
    if not isinstance(layer, CONVOLUTIONS) or cast("nn.Conv2d", layer).groups != 1:
        return None
    return _add_at_points if is_pointwise(layer) else _add_to_convolution


def is_pointwise(layer: Any) -> bool:
    """Tell whether a convolution sees every point by itself: a linear layer in another layout."""
    return all(size == 1 for size in (*layer.kernel_size, *layer.stride)) and not any(layer.padding)


def _add_to_linear(layer: nn.Module, x: Tensor, y: Tensor, down: Tensor, up: Tensor, strength: Strength) -> Tensor:
    if not y.is_contiguous():
        return change_output(layer, x, y, down, up.t(), strength)
    hidden = torch.mm(x.reshape(-1, x.shape[-1]), down.t())  # (points, R)
    if isinstance(strength, Tensor):
        hidden.view(len(strength), -1, len(up)).mul_(strength.unsqueeze(1))
        strength = 1.0
    y.view(-1, y.shape[-1]).addmm_(hidden, up, alpha=strength)
    return y


def _add_at_points(layer: nn.Module, x: Tensor, y: Tensor, down: Tensor, up: Tensor, strength: Strength) -> Tensor:
    if not y.is_contiguous():
        return _add_to_convolution(layer, x, y, down, up, strength)
    hidden = torch.bmm(down.flatten(1).expand(len(x), -1, -1), x.flatten(2))  # (b, R, points)
    return _mix_points(y, hidden, up, strength)


def _add_to_convolution(layer: nn.Module, x: Tensor, y: Tensor, down: Tensor, up: Tensor, strength: Strength) -> Tensor:
    return _mix_points(y, convolve_quickly(layer, x, down), up, strength)  # (b, R, *)


def _mix_points(y: Tensor, hidden: Tensor, up: Tensor, strength: Strength) -> Tensor:
    """Add ``strength * hidden . up`` at every point into ``y`` ``(b, out, *)``, whichever way it lies in memory."""
    if isinstance(strength, Tensor):
        hidden = hidden.mul_(along(strength, hidden.ndim, last=False))
        strength = 1.0
    if y.is_contiguous():
        y.flatten(2).baddbmm_(up.t().expand(len(y), -1, -1), hidden.flatten(2), alpha=strength)
        return y
    points, seen = y.movedim(1, -1), hidden.movedim(1, -1)
    if points.is_contiguous():  # channels last
        points.view(-1, up.shape[1]).addmm_(seen.reshape(-1, len(up)), up, alpha=strength)
        return y
    return y + torch.matmul(up.t(), hidden.flatten(2)).view(y.shape) * strength


def convolve_quickly(layer: nn.Module, x: Tensor, kernels: Tensor, groups: int = 1) -> Tensor:
    """Return what :func:`convolve` gives.

    On a CPU PyTorch takes a road of its own for single small pictures, which is slower than oneDNN unless there is next
    to nothing to do (decision 0022); so oneDNN is called by its name where it can do the work.
    """
    convolution = cast("nn.Conv2d", layer)
    padding: Any = convolution.padding
    if (
        (groups > 1 or kernels.numel() * (x.numel() // (x.shape[1] or 1)) >= WORK_FOR_ONEDNN)
        and x.dtype is torch.float32
        and kernels.dtype is torch.float32
        and x.ndim == kernels.ndim >= 4
        and x.device.type == "cpu"
        and convolution.padding_mode == "zeros"
        and not isinstance(padding, str)
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled  # type: ignore[reportUnknownMemberType]
    ):
        how = (padding, convolution.stride, convolution.dilation, groups)
        return torch.mkldnn_convolution(x, kernels, None, *how)  # type: ignore[reportUnknownMemberType]
    return convolve(layer, x, kernels, groups)


def _change_of_convolution(layer: nn.Module, x: Tensor, down: Tensor, up: Tensor, strength: Strength) -> Tensor:
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


def is_channels_second(layer: nn.Module) -> bool:
    """Tell whether the channels of a layer's output are its second axis, and not its last."""
    return isinstance(layer, (*CONVOLUTIONS, nn.GroupNorm))


def along(strength: Strength, ndim: int, *, last: bool) -> Strength:
    """Shape strengths ``(1 or b, R)`` for a hidden tensor whose rank axis is the last of ``ndim``, or the second.

    Strengths with more axes (one for each point of a picture) have the shape of such a tensor already.
    """
    if not isinstance(strength, Tensor) or strength.ndim > 2:
        return strength
    ones = [1] * (ndim - 2)
    return strength.view(len(strength), *ones, -1) if last else strength.view(len(strength), -1, *ones)
