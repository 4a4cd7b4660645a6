"""The pictures of each batch: a function of the seed and the step, whatever ran before and on how many processes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch

from lorica.data.buckets import BucketPlan, Size
from lorica.data.mixture import Random, Rotation, Source, one_epoch, rotations
from lorica.errors import DataError

BucketSlot = int | tuple[int, ...]  # a picture, or several that take turns, one per epoch
Buckets = Mapping[Size, Sequence[BucketSlot]]


def members(step: int, size: int, count: int, random: Random) -> list[int]:
    """Indices of the ``size`` items of step ``step``, out of ``count``.

    The items form an endless sequence: one permutation of all of them per epoch, each from a generator of its own. A
    step takes the next ``size``, so every item comes once per epoch and no batch is ever short.
    """
    first = step * size
    epochs = range(first // count, (first + size - 1) // count + 1)
    row = [index for epoch in epochs for index in _permutation(epoch, count, random)]
    start = first - epochs.start * count
    return row[start : start + size]


def steps_per_epoch(count: int, size: int) -> int:
    """Number of steps of ``size`` items that see ``count`` items, rounded up."""
    return -(-count // size)


def fill_buckets(plan: BucketPlan, sources: Sequence[Source]) -> Buckets:
    """Contents of each bucket in an epoch: every picture as often as its data set says.

    The pictures of a data set that is larger than its share take turns. Each bucket gets slots of such a set in
    proportion to its number of those pictures, and one slot at least, so that every picture has its turn.
    """
    filled: dict[Size, list[BucketSlot]] = {
        frame: list(inside) for frame, inside in plan.members(sample.position for sample in one_epoch(sources)).items()
    }
    for rotation in rotations(sources):
        for frame, inside in plan.members(rotation.positions).items():
            filled.setdefault(frame, []).extend(_take_turns(inside, rotation))
    return filled


def bucket_members(step: int, size: int, buckets: Buckets, random: Random, parts: int = 1) -> list[int]:
    """Pictures of step ``step``: ``parts`` micro-batches of ``size``, each from one bucket.

    The micro-batches of a run form an endless sequence of epochs, and a step takes the next ``parts``. In an epoch each
    bucket is shuffled and cut into batches of ``size``; the last batch of a bucket is filled from the beginning of the
    same order, again and again if the bucket is small; then the batches of all buckets are shuffled. So an epoch sees
    every picture once, and up to ``size - 1`` pictures of each bucket twice: different ones in each epoch, wherever
    the bucket holds that many.

    Args:
        step: the number of the step.
        size: samples at once on one device.
        buckets: the pictures of each; one that is listed twice comes twice per epoch.
        random: the source of both orders.
        parts: micro-batches per step, on all processes: accumulation times processes.
    """
    numbers = range(step * parts, (step + 1) * parts)
    return [index for number in numbers for index in bucket_batch(number, size, buckets, random)]


def bucket_batch(number: int, size: int, buckets: Buckets, random: Random) -> list[int]:
    """Pictures of one micro-batch, numbered from the beginning of the run.

    Raises:
        DataError: if the buckets are empty.
    """
    frames = sorted(frame for frame, pictures in buckets.items() if pictures)  # whatever the order of the mapping
    if not frames:
        raise DataError("there is no picture in any bucket.")
    ends = list(accumulate(-(-len(buckets[frame]) // size) for frame in frames))  # batches up to and with each bucket
    epoch, place = divmod(number, ends[-1])
    batch = int(torch.randperm(ends[-1], generator=random(epoch, "buckets"))[place])
    chosen = bisect_right(ends, batch)
    start, pictures = (batch - [0, *ends][chosen]) * size, buckets[frames[chosen]]
    order = torch.randperm(len(pictures), generator=random(epoch, f"order/{frames[chosen]}"))
    # The last batch of a bucket wraps around to the beginning of the bucket's own order, so that every batch is full.
    slots = [pictures[int(order[(start + offset) % len(order)])] for offset in range(size)]
    return [slot if isinstance(slot, int) else slot[epoch % len(slot)] for slot in slots]


def bucket_batches_per_epoch(size: int, buckets: Buckets) -> int:
    """Number of micro-batches of ``size`` that see every picture, on all processes together."""
    return sum(-(-len(pictures) // size) for pictures in buckets.values())


def _permutation(epoch: int, count: int, random: Random) -> list[int]:
    return torch.randperm(count, generator=random(epoch, "order")).tolist()


def _take_turns(pictures: Sequence[int], rotation: Rotation) -> list[BucketSlot]:
    slots = max(1, round(rotation.slots * len(pictures) / len(rotation.positions)))
    return [tuple(pictures[slot::slots]) for slot in range(slots)]
