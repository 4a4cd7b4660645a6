"""Shares of several data sets are exact, repeats too, and a step knows nothing of those before it."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from lorica.data.mixture import MixedSample, Source, draws, epoch_length, mixture_members, one_epoch, rotations
from lorica.errors import ConfigError, DataError
from lorica.training.rng import generator

RANDOM = partial(generator, 5)
CATS, DOGS = Source(name="cats", count=3, repeats=4), Source(name="dogs", count=5)
CLASS = Source(name="class", count=11, prior=True, loss_weight=0.25)


def row_of(sources: list[Source], length: int, first: int = 0) -> list[MixedSample]:
    return [entry for step in range(first, first + length) for entry in mixture_members(step, 1, sources, RANDOM)]


def test_repeats_are_exact_every_epoch() -> None:
    sources = [CATS, DOGS]
    assert draws(sources) == (12, 5)
    assert epoch_length(sources) == 17
    for epoch in range(3):
        seen = Counter((entry.source, entry.item) for entry in row_of(sources, 17, 17 * epoch))
        assert seen == {**{("cats", item): 4 for item in range(3)}, **{("dogs", item): 1 for item in range(5)}}


def test_shares_in_lowest_terms_still_give_whole_epochs() -> None:
    sources = [Source(name="a", count=4, repeats=3), Source(name="b", count=6)]
    assert draws(sources) == (2, 1)
    assert epoch_length(sources) == 18
    seen = Counter((entry.source, entry.item) for entry in row_of(sources, 18, 18))
    assert seen == {**{("a", item): 3 for item in range(4)}, **{("b", item): 1 for item in range(6)}}


def test_weights_are_shares_of_the_samples() -> None:
    sources = [Source(name="a", count=3, weight=0.7), Source(name="b", count=20, weight=0.3)]
    assert draws(sources) == (7, 3)
    assert Counter(entry.source for entry in row_of(sources, 10, 40)) == {"a": 7, "b": 3}
    assert epoch_length(sources) == 70  # 20 pictures at 3 a cycle take 7 cycles of 10
    assert {entry.item for entry in row_of(sources, 70) if entry.source == "b"} == set(range(20))


def test_within_a_set_pictures_come_in_turn() -> None:
    sources = [Source(name="a", count=3, weight=0.7), Source(name="b", count=20, weight=0.3)]
    items = [entry.item for entry in row_of(sources, 60) if entry.source == "a"]
    assert len(items) == 42
    turns = [items[start : start + 3] for start in range(0, 42, 3)]
    assert all(sorted(turn) == [0, 1, 2] for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1


def test_a_regularisation_set_comes_as_often_as_all_others() -> None:
    sources = [CATS, CLASS, DOGS]
    assert draws(sources) == (12, 17, 5)
    assert epoch_length(sources) == 34
    row = row_of(sources, 34)
    assert Counter(entry.source for entry in row) == {"cats": 12, "class": 17, "dogs": 5}
    assert {entry.source: entry.loss_weight for entry in row} == {"cats": 1.0, "class": 0.25, "dogs": 1.0}


def test_two_regularisation_sets_share_that_half() -> None:
    other = Source(name="other class", count=2, prior=True)
    assert draws([CATS, CLASS, other]) == draws([DOGS, CLASS, other]) == (2, 1, 1)
    assert draws([Source(name="a", count=5, weight=2), CLASS]) == (1, 1)
    weighted = Source(name="class", count=11, prior=True, weight=0.5)
    assert draws([Source(name="a", count=5, weight=2), weighted]) == (4, 1)
    assert draws([Source(name="a", count=5, weight=2), weighted, other]) == (4, 1, 4)


def test_an_epoch_counts_repeats_and_does_not_wait_for_a_large_regularisation_set() -> None:
    assert epoch_length([Source(name="a", count=4, repeats=3), Source(name="b", count=6, repeats=2)]) == 24
    assert epoch_length([DOGS, Source(name="class", count=100, prior=True)]) == 10


def test_sets_of_one_size_have_orders_of_their_own() -> None:
    row = row_of([Source(name="a", count=9), Source(name="b", count=9)], 18)
    orders = [[entry.item for entry in row if entry.source == name] for name in "ab"]
    assert orders[0] != orders[1]


def test_an_entry_says_where_the_picture_is_among_all() -> None:
    starts = {"cats": 0, "class": 3, "dogs": 14}
    for entry in row_of([CATS, CLASS, DOGS], 34):
        assert entry.position == starts[entry.source] + entry.item


def test_a_step_is_a_piece_of_the_row_whatever_its_size() -> None:
    sources = [CATS, CLASS, DOGS]
    row = row_of(sources, 90)
    assert mixture_members(11, 7, sources, RANDOM) == row[77:84]
    assert mixture_members(1, 40, sources, RANDOM) == row[40:80]
    assert mixture_members(1, 40, sources, partial(generator, 6)) != row[40:80]


def test_sets_are_shuffled_anew_each_cycle() -> None:
    sources = [CATS, DOGS]
    turns = [[entry.source for entry in row_of(sources, 17, 17 * cycle)] for cycle in range(3)]
    assert turns[0] != turns[1] != turns[2]


def test_an_epoch_without_an_order_has_the_same_entries() -> None:
    for sources in ([CATS, DOGS], [CATS, DOGS, Source(name="class", count=4, prior=True)]):
        unordered = Counter(entry.source for entry in one_epoch(sources))
        assert unordered == Counter(entry.source for entry in row_of(sources, epoch_length(sources)))
    assert Counter(one_epoch([CATS, DOGS])) == Counter(row_of([CATS, DOGS], 17))
    assert Counter(entry.item for entry in one_epoch([CATS, DOGS, CLASS]) if entry.source == "class")[0] == 2


def test_a_regularisation_set_larger_than_its_share_comes_rotations() -> None:
    many = Source(name="many", count=40, prior=True)
    assert rotations([CATS, DOGS, CLASS]) == []
    assert rotations([CATS, many, DOGS]) == [(range(3, 43), 17)]
    assert {entry.source for entry in one_epoch([CATS, many, DOGS])} == {"cats", "dogs"}


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"count": 0}, DataError, "the data set 'x' has no pictures"),
        ({"repeats": 0}, ConfigError, "repeats 0; expected at least 1"),
        ({"weight": 0.0004}, ConfigError, "weight 0.0004; expected at least 0.001"),
        ({"weight": float("nan")}, ConfigError, "weight nan"),
        ({"weight": 1.0, "repeats": 2}, ConfigError, "repeats and a weight"),
        ({"prior": True, "repeats": 2}, ConfigError, "repeats and a regularisation set's own share"),
        ({"loss_weight": -1.0}, ConfigError, "loss weight -1.0; expected 0 or more"),
    ],
)
def test_a_wrong_source_is_refused(values: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Source(**{"name": "x", "count": 3, **values})


def test_sources_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="two data sets are called 'cats'"):
        draws([CATS, DOGS, CATS])
    with pytest.raises(ConfigError, match="only regularisation sets"):
        draws([CLASS])
    with pytest.raises(ConfigError, match="some data sets have a weight"):
        draws([DOGS, Source(name="x", count=2, weight=1)])
    with pytest.raises(ConfigError, match="a regularisation set has a weight, but"):
        draws([DOGS, Source(name="x", count=2, weight=1, prior=True)])
