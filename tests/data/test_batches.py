"""Members of a batch depend on the seed and the step alone, and every epoch sees every item once."""

from __future__ import annotations

from functools import partial

import pytest

from lorica.data.batches import members, steps_per_epoch
from lorica.rng import generator

RANDOM = partial(generator, 5)


@pytest.mark.parametrize(("size", "count"), [(3, 7), (7, 7), (20, 7), (1, 5), (4, 1)])
def test_every_item_comes_once_an_epoch(size: int, count: int) -> None:
    row = [index for step in range(2 * count) for index in members(step, size, count, RANDOM)]
    assert len(row) == 2 * count * size
    for start in range(0, len(row), count):
        assert sorted(row[start : start + count]) == list(range(count))


def test_epochs_differ_and_so_do_seeds() -> None:
    first, second = members(0, 50, 50, RANDOM), members(1, 50, 50, RANDOM)
    assert first != second
    assert first != members(0, 50, 50, partial(generator, 6))
    assert first != sorted(first)


def test_a_batch_does_not_depend_on_those_before_it() -> None:
    row = [members(step, 4, 9, RANDOM) for step in range(30)]
    assert members(17, 4, 9, RANDOM) == row[17]


def test_two_small_steps_see_what_one_large_step_sees() -> None:
    assert members(4, 3, 7, RANDOM) + members(5, 3, 7, RANDOM) == members(2, 6, 7, RANDOM)


def test_an_epoch_is_rounded_up() -> None:
    assert [steps_per_epoch(7, size) for size in (1, 3, 7, 8)] == [7, 3, 1, 1]
