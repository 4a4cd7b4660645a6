"""Several data sets in one run: the picture of each sample, the data set it is from, and the weight of its loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from lorica.errors import ConfigError, DataError

Random = Callable[[int, str], torch.Generator]  # (number, purpose) to generator

WEIGHT_UNIT = 1000  # weights count to three decimals


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One data set of several.

    Args:
        name: its name in messages; the order of its pictures depends on it.
        count: number of pictures.
        repeats: how often an epoch sees each picture.
        weight: its share of all samples is this over the sum of all weights; given for every set of a run, or for none.
        loss_weight: factor of its samples' losses (``prior_loss_weight`` for a regularisation set).
        prior: a regularisation set (Ruiz et al. 2022, arXiv:2208.12242): without a weight of its own it
            comes as often as all other sets together, and an epoch does not wait until each of its pictures was seen.
    """

    name: str
    count: int
    repeats: int = 1
    weight: float | None = None
    loss_weight: float = 1.0
    prior: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.count < 1:
            raise DataError(f"the data set {self.name!r} has no pictures.")
        if self.repeats < 1:
            raise ConfigError(f"the data set {self.name!r} has repeats {self.repeats}; expected at least 1.")
        if self.repeats > 1 and (self.weight is not None or self.prior):
            other = "a weight" if self.weight is not None else "a regularisation set's own share"
            raise ConfigError(f"the data set {self.name!r} has repeats and {other}; give one of the two.")
        if self.weight is not None and (not math.isfinite(self.weight) or round(self.weight * WEIGHT_UNIT) < 1):
            raise ConfigError(f"the data set {self.name!r} has weight {self.weight}; expected at least 0.001.")
        if not math.isfinite(self.loss_weight) or self.loss_weight < 0:
            raise ConfigError(f"the data set {self.name!r} has loss weight {self.loss_weight}; expected 0 or more.")


class MixedSample(NamedTuple):
    """One sample of a batch: its data set, the picture in it, its position among all pictures, and its loss weight."""

    source: str
    item: int
    position: int
    loss_weight: float


def mixture_members(step: int, size: int, sources: Sequence[Source], random: Random) -> list[MixedSample]:
    """Samples of step ``step``: the next ``size`` of an endless sequence.

    The sequence is made of cycles in which each set has exactly the slots that :func:`draws` gives it, shuffled anew
    in each cycle. The slots of one set see its pictures one after another, in a new order each time through. So shares
    are exact in every cycle, and no picture of a set comes a third time before each came twice.
    """
    orders: dict[tuple[int, int], Tensor] = {}
    row: list[MixedSample] = []
    for number, drawn in _drawn(step * size, size, draws(sources), random):
        source = sources[number]
        turn, place = divmod(drawn, source.count)
        if (number, turn) not in orders:
            orders[number, turn] = torch.randperm(source.count, generator=random(turn, f"order/{source.name}"))
        row.append(_sample(sources, number, int(orders[number, turn][place])))
    return row


def draws(sources: Sequence[Source]) -> tuple[int, ...]:
    """Slots of each set in a cycle, in lowest terms.

    ``count * repeats`` each, or the weights to three decimals; regularisation sets without a weight share the sum of
    all other sets.

    Raises:
        ConfigError: if only some sets have a weight, two have one name, or all are regularisation sets.
    """
    _check(sources)
    dependent = [source.prior and source.weight is None for source in sources]
    share = max(1, sum(dependent))
    own = [0 if depends else share * _own(source) for source, depends in zip(sources, dependent, strict=True)]
    instances = sum(number for number, source in zip(own, sources, strict=True) if not source.prior)
    # All other sets were counted ``share`` times over, so that the division comes out even.
    full = [instances // share if depends else number for number, depends in zip(own, dependent, strict=True)]
    common = math.gcd(*full)
    return tuple(number // common for number in full)


def epoch_length(sources: Sequence[Source]) -> int:
    """Number of samples, in whole cycles, after which every picture was seen ``repeats`` times or more.

    Pictures of regularisation sets do not count. Without weights each was seen exactly that often.
    """
    slots = draws(sources)
    paired = zip(sources, slots, strict=True)
    cycles = max(-(-source.count * source.repeats // own) for source, own in paired if not source.prior)
    return cycles * sum(slots)


def one_epoch(sources: Sequence[Source]) -> list[MixedSample]:
    """Samples of an epoch in no order, for batches that are drawn by bucket.

    A regularisation set with more pictures than slots is not among them: see :func:`rotations`.
    """
    return [
        _sample(sources, number, drawn % source.count)
        for number, (source, slots) in enumerate(_slots_of_an_epoch(sources))
        for drawn in range(slots if slots >= source.count else 0)
    ]


class Rotation(NamedTuple):
    """Pictures that take turns in fewer slots of an epoch; positions count the pictures of all sets."""

    positions: range
    slots: int


def rotations(sources: Sequence[Source]) -> list[Rotation]:
    """Data sets with more pictures than slots in an epoch: large regularisation sets."""
    ends = list(accumulate(source.count for source in sources))
    return [
        Rotation(range(end - source.count, end), slots)
        for end, (source, slots) in zip(ends, _slots_of_an_epoch(sources), strict=True)
        if slots < source.count
    ]


def _slots_of_an_epoch(sources: Sequence[Source]) -> list[tuple[Source, int]]:
    slots = draws(sources)
    cycles = epoch_length(sources) // sum(slots)
    return [(source, cycles * number) for source, number in zip(sources, slots, strict=True)]


def _drawn(first: int, size: int, slots: Sequence[int], random: Random) -> list[tuple[int, int]]:
    """Data set of each sample of a step, and the number of samples of that set before it."""
    total, ends = sum(slots), torch.tensor(list(accumulate(slots)))
    found: list[tuple[int, int]] = []
    for cycle in range(first // total, (first + size - 1) // total + 1):
        order = torch.randperm(total, generator=random(cycle, "sources"))
        owners = torch.bucketize(order, ends, right=True)  # the data set of each slot of the cycle
        begin, end = max(first - cycle * total, 0), min(first + size - cycle * total, total)
        # Counting within the cycle makes a step a function of its number alone: nothing before it has to be drawn.
        for place, number in enumerate(owners[begin:end].tolist(), begin):
            found.append((number, cycle * slots[number] + int((owners[:place] == number).sum())))
    return found


def _sample(sources: Sequence[Source], number: int, item: int) -> MixedSample:
    source, before = sources[number], sum(earlier.count for earlier in sources[:number])
    return MixedSample(source.name, item, before + item, source.loss_weight)


def _own(source: Source) -> int:
    return source.count * source.repeats if source.weight is None else round(source.weight * WEIGHT_UNIT)


def _check(sources: Sequence[Source]) -> None:
    names = [source.name for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two data sets are called {twice!r}; give each a name of its own.")
    weighted = [source.weight is not None for source in sources if not source.prior]
    if not weighted:
        raise ConfigError("there are only regularisation sets; add a data set to learn from.")
    if any(weighted) != all(weighted):
        raise ConfigError("some data sets have a weight and others have none: give one to each, or to none.")
    if any(source.prior and source.weight is not None for source in sources) and not all(weighted):
        raise ConfigError("a regularisation set has a weight, but the other data sets have none.")
