"""Who is in which batch: a function of the seed and the step, whatever ran before and on how many processes."""

from __future__ import annotations

from collections.abc import Callable

import torch

Random = Callable[[int, str], torch.Generator]  # (number, purpose) to generator


def members(step: int, size: int, count: int, random: Random) -> list[int]:
    """Return the indices of the ``size`` items that step ``step`` sees, of ``count`` items.

    The items form an endless row: one permutation of all of them an epoch, each from its own generator. A step sees the
    next ``size`` of that row, so every item comes once an epoch and no batch is ever short.
    """
    first = step * size
    epochs = range(first // count, (first + size - 1) // count + 1)
    row = [index for epoch in epochs for index in permutation(epoch, count, random)]
    start = first - epochs.start * count
    return row[start : start + size]


def permutation(epoch: int, count: int, random: Random) -> list[int]:
    """Return the order in which one epoch sees its items."""
    return torch.randperm(count, generator=random(epoch, "order")).tolist()


def steps_per_epoch(count: int, size: int) -> int:
    """Return how many steps of ``size`` items see ``count`` items, rounded up."""
    return -(-count // size)
