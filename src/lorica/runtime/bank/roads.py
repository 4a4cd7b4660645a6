"""The roads of an eager forward through the rows that act: all of them stacked, or their sum as a whole weight.

A road is made once for each change of the strengths and holds what the products need, so that a layer costs no more
calls than the formula has products. All of them, also those in ``apart.py``, give the same; which one is taken is a
matter of work alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lorica.runtime.bank.products import Strength, adding, change_output, convolve_quickly, is_pointwise
from lorica.runtime.pipeline.batch import for_batch


@dataclass(frozen=True, slots=True)
class Slot:
    """The columns of a strength tensor that belong to one adapter, and what its strength is multiplied by there."""

    start: int
    stop: int
    scaling: float


def change_with_rows(
    layer: nn.Module, x: Tensor, y: Tensor, down: Tensor, up: Tensor, strength: Strength, guidance: int | None = None
) -> Tensor:
    """Return a new tensor with the change of these rows, ``up`` being ``(R, out)``; in every precision."""
    dtype = x.dtype if x.is_floating_point() else y.dtype
    if dtype != down.dtype and not torch.is_autocast_enabled(y.device.type):
        down, up = down.to(dtype), up.to(dtype)
    return change_output(layer, x, y, down, up.t(), _for_batch(strength, x, guidance))


def _for_batch(strength: Strength, x: Tensor, guidance: int | None) -> Strength:
    return for_batch(strength, len(x), guidance) if isinstance(strength, Tensor) else strength


class Road(Protocol):
    """One way to add what acts into a layer's output."""

    def add(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Add to ``y`` in place, where its memory allows it, and return it; all are in the factors' precision."""
        ...


@dataclass(frozen=True, slots=True)
class Stacked:
    """All rows that act for any sample: ``down`` ``(R, in, *kernel)``, ``up`` ``(R, out)``.

    Args:
        down: as above.
        up: as above.
        strength: ``(1 or samples, R)``, or one number if that is all.
        guidance: how often the list of samples stands in a batch, if that is known.
    """

    down: Tensor
    up: Tensor
    strength: Strength
    guidance: int | None = None

    def add(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Add in two products."""
        add = adding(layer)
        if add is None:
            return self.change(layer, x, y)
        return add(layer, x, y, self.down, self.up, _for_batch(self.strength, x, self.guidance))

    def whole(self, points: int) -> Whole | None:
        """Return the sum of all changes if that is less work for outputs of so many points."""
        down, up = self.down, self.up
        size, rank, out = down[0].numel(), *up.shape
        if not is_less_work(rank, size, out, points):
            return None
        scaled = up.float().t() * self.strength  # (out, R)
        return Whole(torch.mm(scaled, down.float().flatten(1)).view(out, *down.shape[1:]).to(down.dtype))

    def change(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return a new tensor: with gradients, for every layer and in every precision."""
        return change_with_rows(layer, x, y, self.down, self.up, self.strength, self.guidance)


@dataclass(frozen=True, slots=True)
class Whole:
    """The sum of all changes, where that needs fewer multiplications than its factors: ``(out, in, *kernel)``."""

    weight: Tensor

    def add(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Add the layer's own operation with the change of its weight."""
        weight, own = self.weight, y.is_contiguous()
        if isinstance(layer, nn.Linear):
            if own:
                y.view(-1, len(weight)).addmm_(x.reshape(-1, x.shape[-1]), weight.t())
            return y if own else y.add_(F.linear(x, weight))
        if own and is_pointwise(layer):
            y.flatten(2).baddbmm_(weight.flatten(1).expand(len(x), -1, -1), x.flatten(2))
            return y
        return y.add_(convolve_quickly(layer, x, weight))


def is_less_work(rank: int, size: int, out: int, points: int) -> bool:
    """Tell whether a whole weight ``(out, size)`` is no more work than factors of this rank, for so many points.

    Building it is less than one forward then, so it pays from the second forward on; and it takes no more memory than
    the factors do.
    """
    return points >= rank and rank * (size + out) >= size * out
