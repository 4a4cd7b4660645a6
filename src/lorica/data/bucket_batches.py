"""Batches whose pictures all lie in one bucket: a function of the seed and the step, like every batch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch

from lorica.data.batches import Random
from lorica.data.buckets import Size
from lorica.errors import DataError

Buckets = Mapping[Size, Sequence[int]]


def bucket_members(step: int, size: int, buckets: Buckets, random: Random, parts: int = 1) -> list[int]:
    """Return the pictures that step ``step`` sees: ``parts`` micro-batches of ``size``, each from one bucket.

    The micro-batches of a run form an endless row, and a step takes the next ``parts`` of it. The row is made of
    epochs. In an epoch each bucket is put into an order of its own and cut into batches of ``size``; the last batch of
    a bucket is filled from the beginning of the same order, again and again if the bucket is small; then the batches
    of all buckets are shuffled. So an epoch sees every picture once, and up to ``size - 1`` places of each bucket
    are second sights: of different pictures wherever the bucket holds that many.

    Args:
        step: the number of the step.
        size: samples at once on one device.
        buckets: the pictures of each; one that is named twice comes twice an epoch.
        random: the source of both orders.
        parts: micro-batches a step, on all processes: accumulation times processes.
    """
    numbers = range(step * parts, (step + 1) * parts)
    return [index for number in numbers for index in bucket_batch(number, size, buckets, random)]


def bucket_batch(number: int, size: int, buckets: Buckets, random: Random) -> list[int]:
    """Return the pictures of one micro-batch, counted from the beginning of the run.

    Raises:
        DataError: if the buckets are empty.
    """
    frames = sorted(frame for frame, pictures in buckets.items() if pictures)
    if not frames:
        raise DataError("there is no picture in any bucket.")
    ends = list(accumulate(-(-len(buckets[frame]) // size) for frame in frames))  # batches up to and with each bucket
    epoch, place = divmod(number, ends[-1])
    batch = int(torch.randperm(ends[-1], generator=random(epoch, "buckets"))[place])
    chosen = bisect_right(ends, batch)
    start, pictures = (batch - [0, *ends][chosen]) * size, buckets[frames[chosen]]
    order = torch.randperm(len(pictures), generator=random(epoch, f"order/{frames[chosen]}"))
    return [pictures[int(order[(start + offset) % len(order)])] for offset in range(size)]


def bucket_batches_per_epoch(size: int, buckets: Buckets) -> int:
    """Return how many micro-batches of ``size`` see every picture, on all processes together."""
    return sum(-(-len(pictures) // size) for pictures in buckets.values())
