"""Batches whose pictures all lie in one bucket: a function of the seed and the step, like every batch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch

from lorica.data.batches import Random
from lorica.data.buckets import BucketPlan, Size
from lorica.data.mixture import Source, Turns, in_turns, one_epoch
from lorica.errors import DataError

Place = int | tuple[int, ...]  # a picture, or those that come there in turn, one an epoch
Buckets = Mapping[Size, Sequence[Place]]


def fill_buckets(plan: BucketPlan, sources: Sequence[Source]) -> Buckets:
    """Return what each bucket holds in an epoch: every picture as often as its set says.

    The pictures of a set that is larger than its share come in turn. Each bucket has a share of the places of such a
    set by how many of its pictures it holds, and one place at least, so that every picture has its turn.
    """
    filled: dict[Size, list[Place]] = {
        frame: list(members) for frame, members in plan.members(entry.position for entry in one_epoch(sources)).items()
    }
    for turns in in_turns(sources):
        for frame, members in plan.members(turns.positions).items():
            filled.setdefault(frame, []).extend(_in_turn(members, turns))
    return filled


def _in_turn(members: Sequence[int], turns: Turns) -> list[Place]:
    places = max(1, round(turns.places * len(members) / len(turns.positions)))
    return [tuple(members[place::places]) for place in range(places)]


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
    found = [pictures[int(order[(start + offset) % len(order)])] for offset in range(size)]
    return [place if isinstance(place, int) else place[epoch % len(place)] for place in found]


def bucket_batches_per_epoch(size: int, buckets: Buckets) -> int:
    """Return how many micro-batches of ``size`` see every picture, on all processes together."""
    return sum(-(-len(pictures) // size) for pictures in buckets.values())
