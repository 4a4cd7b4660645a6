"""Fast forms of the formula, for an eager forward without gradients: into the layer's own output, in place.

All factors are in one precision, that of the input and of the output. Each form gives what :func:`formula.change` gives
(``tests/runtime/bank/test_formula.py``); which one is taken is a matter of work alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from lorica.adapters.operation import CONVOLUTIONS, convolve
from lorica.runtime.bank.batch import repeats
from lorica.runtime.bank.formula import Strength, along, change

WORK_FOR_ONEDNN = 2**22  # multiplications, of a convolution with stride 1


def has_fast_form(layer: nn.Module) -> bool:
    """Whether :func:`add` writes in place for this layer: a Linear, or a convolution without groups."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, CONVOLUTIONS) and cast("nn.Conv2d", layer).groups == 1)


def add(layer: nn.Module, x: Tensor, y: Tensor, down: Tensor, up: Tensor, strength: Strength) -> Tensor:
    """``y`` with what the factors add, in place where its memory allows that. Arguments as of :func:`change`."""
    if isinstance(layer, nn.Linear):
        if not y.is_contiguous():
            return change(layer, x, y, down, up, strength)
        hidden = torch.mm(x.reshape(-1, x.shape[-1]), down.t())  # (points, R)
        if isinstance(strength, Tensor):
            hidden.view(len(strength), -1, len(down)).mul_(strength.unsqueeze(1))
            strength = 1.0
        y.view(-1, y.shape[-1]).addmm_(hidden, up.t(), alpha=strength)
        return y
    if not has_fast_form(layer):
        return change(layer, x, y, down, up, strength)
    if is_pointwise(layer) and y.is_contiguous():
        hidden = torch.bmm(down.flatten(1).expand(len(x), -1, -1), x.flatten(2))  # (b, R, points)
    else:
        hidden = convolve_quickly(layer, x, down)  # (b, R, *)
    return _mix_points(y, hidden, up, strength)


def _mix_points(y: Tensor, hidden: Tensor, up: Tensor, strength: Strength) -> Tensor:
    """Add ``strength * up . hidden`` at every point into ``y`` ``(b, out, *)``, whichever way it lies in memory."""
    if isinstance(strength, Tensor):
        hidden = hidden.mul_(along(strength, hidden.ndim, last=False))
        strength = 1.0
    if y.is_contiguous():
        y.flatten(2).baddbmm_(up.expand(len(y), -1, -1), hidden.flatten(2), alpha=strength)
        return y
    points, seen = y.movedim(1, -1), hidden.movedim(1, -1)
    if points.is_contiguous():  # channels last
        points.view(-1, len(up)).addmm_(seen.reshape(-1, up.shape[1]), up.t(), alpha=strength)
        return y
    return y + torch.matmul(up, hidden.flatten(2)).view(y.shape) * strength


class SampleRows(NamedTuple):
    """Factors of each sample by themselves, so that no sample pays for the adapters of the others.

    Args:
        down: ``(samples, r, in, *kernel)``.
        up: ``(samples, out, r)``.
        strength: ``(samples, r)``, 0 where a sample has fewer rows than the others; or one number.
    """

    down: Tensor
    up: Tensor
    strength: Strength


def add_apart(layer: nn.Module, x: Tensor, y: Tensor, rows: SampleRows, guidance: int | None) -> Tensor:
    """``y`` with what each sample's own factors add, in place.

    A Linear multiplies batches of matrices; a convolution takes the samples as groups of channels of one picture. Where
    a batch has several pictures for each sample, convolutions go from sample to sample.

    Args:
        layer: a Linear, or a convolution without groups.
        x: its input.
        y: its output.
        rows: the factors.
        guidance: how often the list of samples stands in the batch, if that is known.
    """
    samples, out, rank = rows.up.shape
    strength = rows.strength
    factor = strength if isinstance(strength, float) else 1.0
    for part in _parts(layer, x, y, samples, guidance):
        if part.sample is not None:
            own = strength[part.sample : part.sample + 1] if isinstance(strength, Tensor) else strength
            added = add(layer, part.x, part.y, rows.down[part.sample], rows.up[part.sample], own)
            if added is not part.y:
                part.y.copy_(added)
        elif isinstance(layer, nn.Linear):
            hidden = torch.bmm(part.x.reshape(samples, -1, x.shape[-1]), rows.down.transpose(1, 2))
            part.y.view(samples, -1, out).baddbmm_(_scaled(hidden, strength, last=True), rows.up.mT, alpha=factor)
        else:
            hidden = _convolve_each(layer, part.x, rows.down).view(samples, rank, -1)
            part.y.flatten(2).baddbmm_(rows.up, _scaled(hidden, strength, last=False), alpha=factor)
    return y


class _BatchPart(NamedTuple):
    """Rows of a batch: a whole list of samples, one row for each, or all rows of one sample."""

    x: Tensor
    y: Tensor
    sample: int | None


def _parts(layer: nn.Module, x: Tensor, y: Tensor, samples: int, guidance: int | None) -> Iterator[_BatchPart]:
    """The parts of a batch that one step can take; a Linear takes several rows of a sample as one."""
    halves, times = repeats(samples, len(x), guidance)
    if not y.is_contiguous() or (times > 1 and not isinstance(layer, nn.Linear)):
        for number, (rows, out) in enumerate(zip(x.split(times), y.split(times), strict=True)):
            yield _BatchPart(rows, out, number % samples)
    else:
        for rows, out in zip(x.chunk(halves), y.chunk(halves), strict=True):
            yield _BatchPart(rows, out, None)


def _scaled(hidden: Tensor, strength: Strength, *, last: bool) -> Tensor:
    return hidden.mul_(along(strength, 3, last=last)) if isinstance(strength, Tensor) else hidden


def _convolve_each(layer: nn.Module, x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each picture with kernels of its own ``(samples, k, in, *kernel)``."""
    if is_pointwise(layer):
        return torch.bmm(kernels.flatten(2), x.flatten(2))
    return convolve_quickly(layer, x.reshape(1, -1, *x.shape[2:]), kernels.flatten(0, 1), len(kernels))


def is_pointwise(layer: Any) -> bool:
    """Whether a convolution sees every point by itself: a linear layer in another memory layout."""
    return all(size == 1 for size in (*layer.kernel_size, *layer.stride)) and not any(layer.padding)


def convolve_quickly(layer: nn.Module, x: Tensor, kernels: Tensor, groups: int = 1) -> Tensor:
    """The same as :func:`convolve`.

    On a CPU PyTorch computes single small pictures in a way of its own, which is slower than oneDNN unless there is
    next to nothing to do (decision 0022); so oneDNN is called by its name where it can do the work.
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
