"""Several data sets in one run: which picture of which set each place of a batch sees, and how much its loss counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from lorica.data.batches import Random
from lorica.errors import ConfigError, DataError

WEIGHT_UNIT = 1000  # weights count to three decimals


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One data set of several.

    Args:
        name: what messages call it; its order of pictures depends on it.
        count: how many pictures it has.
        repeats: how often an epoch sees each of them.
        weight: its share of all samples is this over the sum of all weights; for every set of a run, or for none.
        loss_weight: what the losses of its samples are multiplied by (``prior_loss_weight`` for a regularisation set).
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


class Entry(NamedTuple):
    """One place of a batch: the set, the picture in it, its position among all sets' pictures, and its weight."""

    source: str
    item: int
    position: int
    loss_weight: float


def mixture_members(step: int, size: int, sources: Sequence[Source], random: Random) -> list[Entry]:
    """Return what step ``step`` sees, ``size`` entries of an endless row.

    The row is made of cycles in which each set has exactly the places that :func:`draws` gives it, shuffled anew each
    cycle. The places of one set see its pictures one after another, a new order each time through. So shares are exact
    in every cycle, and of one set no picture comes a third time before each came twice.
    """
    orders: dict[tuple[int, int], Tensor] = {}
    row: list[Entry] = []
    for number, drawn in _drawn(step * size, size, draws(sources), random):
        source = sources[number]
        turn, place = divmod(drawn, source.count)
        if (number, turn) not in orders:
            orders[number, turn] = torch.randperm(source.count, generator=random(turn, f"order/{source.name}"))
        row.append(_entry(sources, number, int(orders[number, turn][place])))
    return row


def draws(sources: Sequence[Source]) -> tuple[int, ...]:
    """Return how many places each set has in a cycle, in lowest terms.

    ``count * repeats`` each, or the weights to three decimals; a regularisation set without a weight gets the sum of
    all sets that are none, shared with others of its kind.

    Raises:
        ConfigError: if only some sets have a weight, two have one name, or all are regularisation sets.
    """
    _check(sources)
    waiting = [source.prior and source.weight is None for source in sources]
    share = max(1, sum(waiting))
    places = [0 if waits else share * _own(source) for source, waits in zip(sources, waiting, strict=True)]
    instances = sum(number for number, source in zip(places, sources, strict=True) if not source.prior)
    full = [instances // share if waits else number for number, waits in zip(places, waiting, strict=True)]
    common = math.gcd(*full)
    return tuple(number // common for number in full)


def epoch_length(sources: Sequence[Source]) -> int:
    """Return after how many samples, in whole cycles, every picture was seen ``repeats`` times or more.

    Pictures of regularisation sets do not count. Without weights each was seen exactly that often.
    """
    places = draws(sources)
    asked = zip(sources, places, strict=True)
    cycles = max(-(-source.count * source.repeats // place) for source, place in asked if not source.prior)
    return cycles * sum(places)


def one_epoch(sources: Sequence[Source]) -> list[Entry]:
    """Return the entries of an epoch without an order, for batches that are drawn by bucket.

    A regularisation set with more pictures than places is not among them: see :func:`in_turns`.
    """
    return [
        _entry(sources, number, drawn % source.count)
        for number, (source, places) in enumerate(_places_of_an_epoch(sources))
        for drawn in range(places if places >= source.count else 0)
    ]


class Turns(NamedTuple):
    """Pictures, by their positions among all sets' pictures, that share fewer places of an epoch."""

    positions: range
    places: int


def in_turns(sources: Sequence[Source]) -> list[Turns]:
    """Return the sets with more pictures than places in an epoch: large regularisation sets."""
    ends = list(accumulate(source.count for source in sources))
    return [
        Turns(range(end - source.count, end), places)
        for end, (source, places) in zip(ends, _places_of_an_epoch(sources), strict=True)
        if places < source.count
    ]


def _places_of_an_epoch(sources: Sequence[Source]) -> list[tuple[Source, int]]:
    places = draws(sources)
    cycles = epoch_length(sources) // sum(places)
    return [(source, cycles * number) for source, number in zip(sources, places, strict=True)]


def _drawn(first: int, size: int, places: Sequence[int], random: Random) -> list[tuple[int, int]]:
    """Return for each position of the row the set that it belongs to, and how many of that set came before it."""
    total, ends = sum(places), torch.tensor(list(accumulate(places)))
    found: list[tuple[int, int]] = []
    for cycle in range(first // total, (first + size - 1) // total + 1):
        slots = torch.randperm(total, generator=random(cycle, "sources"))
        turn = torch.bucketize(slots, ends, right=True)  # the set of each place of the cycle
        begin, end = max(first - cycle * total, 0), min(first + size - cycle * total, total)
        for place, number in enumerate(turn[begin:end].tolist(), begin):
            found.append((number, cycle * places[number] + int((turn[:place] == number).sum())))
    return found


def _entry(sources: Sequence[Source], number: int, item: int) -> Entry:
    source, before = sources[number], sum(earlier.count for earlier in sources[:number])
    return Entry(source.name, item, before + item, source.loss_weight)


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
