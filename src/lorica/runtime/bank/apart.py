"""The roads through a batch whose samples each have rows of their own: no sample pays for the rows of the others.

A linear layer multiplies batches of matrices; a convolution takes the samples as groups of channels of one picture.
Where a batch has several pictures for each sample, convolutions go from sample to sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorica.runtime.bank.products import Strength, along, convolve_quickly, is_pointwise
from lorica.runtime.bank.roads import Stacked, Whole, is_less_work
from lorica.runtime.pipeline.batch import spread


@dataclass(frozen=True, slots=True)
class Apart:
    """The rows of each sample by themselves: ``down`` ``(samples, r, in, *kernel)``, ``up`` ``(samples, r, out)``.

    Args:
        down: as above.
        up: as above.
        strength: ``(samples, r)``, 0 where a sample has fewer rows than the others; one number if that is all.
        guidance: how often the list of samples stands in a batch, if that is known.
    """

    down: Tensor
    up: Tensor
    strength: Strength
    guidance: int | None

    def add(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Add in two products of each sample with its own rows."""
        samples, rank, out = self.up.shape
        strength = self.strength
        factor = strength if isinstance(strength, float) else 1.0
        for part in _parts(layer, x, y, samples, self.guidance):
            if part.sample is not None:
                own = strength[part.sample : part.sample + 1] if isinstance(strength, Tensor) else strength
                part.put(Stacked(self.down[part.sample], self.up[part.sample], own).add(layer, part.x, part.y))
            elif isinstance(layer, nn.Linear):
                hidden = torch.bmm(part.x.reshape(samples, -1, x.shape[-1]), self.down.transpose(1, 2))
                part.y.view(samples, -1, out).baddbmm_(self._scaled(hidden, last=True), self.up, alpha=factor)
            else:
                hidden = _convolved(layer, part.x, self.down).view(samples, rank, -1)
                hidden = self._scaled(hidden, last=False)
                part.y.flatten(2).baddbmm_(self.up.transpose(1, 2), hidden, alpha=factor)
        return y

    def _scaled(self, hidden: Tensor, *, last: bool) -> Tensor:
        return hidden.mul_(along(self.strength, 3, last=last)) if isinstance(self.strength, Tensor) else hidden

    def whole(self, points: int) -> WholeApart | None:
        """Return a weight for each sample if that is less work for so many points of a sample."""
        samples, rank, out = self.up.shape
        if not is_less_work(rank, self.down[0, 0].numel(), out, points):
            return None
        strength = self.strength.unsqueeze(1) if isinstance(self.strength, Tensor) else self.strength
        scaled = self.up.float().transpose(1, 2) * strength  # (samples, out, r)
        weights = torch.bmm(scaled, self.down.float().flatten(2)).view(samples, out, *self.down.shape[2:])
        return WholeApart(weights.to(self.down.dtype), self.guidance)


@dataclass(frozen=True, slots=True)
class WholeApart:
    """The sum of each sample's changes, ``(samples, out, in, *kernel)``."""

    weights: Tensor
    guidance: int | None

    def add(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Add the layer's own operation of each sample with the change of its weight."""
        samples, out = self.weights.shape[:2]
        for part in _parts(layer, x, y, samples, self.guidance):
            if part.sample is not None:
                part.put(Whole(self.weights[part.sample]).add(layer, part.x, part.y))
            elif isinstance(layer, nn.Linear):
                inputs = part.x.reshape(samples, -1, x.shape[-1])
                part.y.view(samples, -1, out).baddbmm_(inputs, self.weights.transpose(1, 2))
            else:
                part.y.add_(_convolved(layer, part.x, self.weights).view(part.y.shape))
        return y


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows of a batch: a whole list of samples, one row for each, or all rows of one sample."""

    x: Tensor
    y: Tensor
    sample: int | None

    def put(self, changed: Tensor) -> None:
        if changed is not self.y:
            self.y.copy_(changed)


def _parts(layer: nn.Module, x: Tensor, y: Tensor, samples: int, guidance: int | None) -> Iterator[_Part]:
    """Yield the rows of a batch that one step can take; a linear layer takes several rows of a sample as one."""
    halves, times = spread(samples, len(x), guidance)
    if not y.is_contiguous() or (times > 1 and not isinstance(layer, nn.Linear)):
        for number, (rows, out) in enumerate(zip(x.split(times), y.split(times), strict=True)):
            yield _Part(rows, out, number % samples)
    elif halves == 1:
        yield _Part(x, y, None)
    else:
        for rows, out in zip(x.chunk(halves), y.chunk(halves), strict=True):
            yield _Part(rows, out, None)


def _convolved(layer: nn.Module, x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each picture with kernels of its own ``(samples, k, in, *kernel)``."""
    if is_pointwise(layer):
        return torch.bmm(kernels.flatten(2), x.flatten(2))
    return convolve_quickly(layer, x.reshape(1, -1, *x.shape[2:]), kernels.flatten(0, 1), len(kernels))
