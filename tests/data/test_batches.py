"""Batches depend on the seed and the step alone; every epoch sees every picture, bucket by bucket or all together."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
import torch

from lorica.data.batches import (
    bucket_batch,
    bucket_batches_per_epoch,
    bucket_members,
    fill_buckets,
    members,
    steps_per_epoch,
)
from lorica.data.buckets import Size, plan_buckets
from lorica.data.mixture import Source
from lorica.errors import DataError
from lorica.training.plan import Plan
from lorica.training.rng import generator

RANDOM = partial(generator, 5)
BUCKETS = {Size(640, 384): range(7), Size(512, 512): range(7, 18), Size(384, 640): range(18, 20)}
PICTURES = 20


def bucket_of(index: int) -> Size:
    return next(frame for frame, pictures in BUCKETS.items() if index in pictures)


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


@pytest.mark.parametrize("size", [1, 3, 4, 13])
def test_every_batch_is_full_and_of_one_bucket(size: int) -> None:
    for number in range(40):
        batch = bucket_batch(number, size, BUCKETS, RANDOM)
        assert len(batch) == size
        assert len({bucket_of(index) for index in batch}) == 1


@pytest.mark.parametrize("size", [1, 3, 4, 13])
@pytest.mark.parametrize("epoch", [0, 2])
def test_an_epoch_sees_every_picture_once_and_fills_the_last_batches(size: int, epoch: int) -> None:
    length = bucket_batches_per_epoch(size, BUCKETS)
    row = [i for n in range(epoch * length, (epoch + 1) * length) for i in bucket_batch(n, size, BUCKETS, RANDOM)]
    seen = Counter(row)
    assert sorted(seen) == list(range(PICTURES))
    for pictures in BUCKETS.values():
        times = [seen[index] for index in pictures]
        assert sum(times) == -(-len(pictures) // size) * size
        assert max(times) - min(times) <= 1  # the filling is spread evenly


def test_an_epoch_written_out() -> None:
    """Batches of three: each bucket's order is cut, and filled from its own beginning."""
    length = bucket_batches_per_epoch(3, BUCKETS)
    expected: list[list[int]] = []
    for frame, pictures in BUCKETS.items():
        order = torch.randperm(len(pictures), generator=RANDOM(1, f"order/{frame}")).tolist()
        endless = [pictures[place] for place in order] * 2
        expected += [endless[start : start + 3] for start in range(0, len(pictures), 3)]
    assert sorted(bucket_batch(length + n, 3, BUCKETS, RANDOM) for n in range(length)) == sorted(expected)


def test_with_batches_of_one_an_epoch_is_a_permutation() -> None:
    assert bucket_batches_per_epoch(1, BUCKETS) == PICTURES
    assert sorted(bucket_members(0, 1, BUCKETS, RANDOM, parts=PICTURES)) == list(range(PICTURES))


@pytest.mark.parametrize("size", [2, 7])
def test_a_batch_holds_a_picture_twice_only_where_the_bucket_is_smaller(size: int) -> None:
    for number in range(30):
        batch = bucket_batch(number, size, BUCKETS, RANDOM)
        assert len(set(batch)) == min(size, len(BUCKETS[bucket_of(batch[0])]))


def test_batches_of_different_buckets_are_mixed_anew_each_epoch() -> None:
    length = bucket_batches_per_epoch(3, BUCKETS)
    orders = [[bucket_of(bucket_batch(e * length + n, 3, BUCKETS, RANDOM)[0]) for n in range(length)] for e in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])
    fills = [
        Counter(i for n in range(length) for i in bucket_batch(e * length + n, 3, BUCKETS, RANDOM)) for e in range(9)
    ]
    twice = [frozenset(index for index, times in seen.items() if times > 1) for seen in fills]
    assert len(set(twice)) > 3  # not always the same pictures are second sights


def test_a_step_does_not_depend_on_those_before_it_nor_on_the_order_of_the_buckets() -> None:
    row = [bucket_members(step, 3, BUCKETS, RANDOM, parts=2) for step in range(12)]
    backwards = dict(reversed(BUCKETS.items()))
    assert bucket_members(9, 3, backwards, partial(generator, 5), parts=2) == row[9]
    assert bucket_members(9, 3, BUCKETS, partial(generator, 6), parts=2) != row[9]


@pytest.mark.parametrize(("accumulation", "processes"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_micro_batches_of_every_process_are_of_one_bucket_and_share_the_row(accumulation: int, processes: int) -> None:
    size, parts = 4, accumulation * processes
    for step in range(6):
        row = bucket_members(step, size, BUCKETS, RANDOM, parts=parts)
        whole = [i for part in range(parts) for i in bucket_batch(step * parts + part, size, BUCKETS, RANDOM)]
        assert row == whole
        taken: list[int] = []
        for process in range(processes):
            plan = Plan(
                steps=9, batch=size, accumulation=accumulation, processes=processes, process=process, pictures=PICTURES
            )
            assert plan.size == len(row)
            for places in plan.micro_batches():
                assert len({bucket_of(row[place]) for place in places}) == 1
                taken += places
        assert sorted(taken) == list(range(len(row)))


def test_a_picture_named_twice_comes_twice_an_epoch() -> None:
    buckets = {Size(8, 9): [0, 1, 1], Size(9, 8): [2]}
    assert sorted(bucket_members(3, 1, buckets, RANDOM, parts=4)) == [0, 1, 1, 2]


def test_no_picture_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="no picture in any bucket"):
        bucket_batch(0, 2, {Size(8, 9): []}, RANDOM)


def test_pictures_of_a_large_regularisation_set_come_in_turn() -> None:
    """Four pictures to learn from, thirteen others: nine squares, three wide ones, and a tall one."""
    sizes = [Size(512, 512)] * 13 + [Size(640, 320)] * 3 + [Size(320, 640)]
    plan = plan_buckets(sizes, area=512 * 512, step=64, least=256, most=1024, no_upscale=False)
    sources = [Source(name="own", count=4), Source(name="class", count=13, prior=True)]
    buckets = fill_buckets(plan, sources)
    assert sorted(len(places) for places in buckets.values()) == [1, 1, 4 + 3]  # 4 places, by the number of pictures
    length = bucket_batches_per_epoch(1, buckets)
    epochs = [
        Counter(bucket_batch(number, 1, buckets, RANDOM)[0] for number in range(epoch * length, (epoch + 1) * length))
        for epoch in range(6)
    ]
    assert all(epoch[own] == 1 for epoch in epochs for own in range(4))
    assert all(sum(epoch.values()) == 9 for epoch in epochs)
    seen = sum(epochs[:3], Counter[int]())
    assert [seen[index] for index in range(4, 16)] == [1] * 12  # in three epochs each square and each wide one once
    assert seen[16] == 3


def test_a_regularisation_set_within_its_share_comes_whole() -> None:
    plan = plan_buckets([Size(512, 512)] * 8, area=512 * 512, step=64, least=256, most=1024, no_upscale=False)
    (places,) = fill_buckets(plan, [Source(name="own", count=5), Source(name="class", count=3, prior=True)]).values()
    assert Counter(places) == {**dict.fromkeys(range(7), 1), 5: 2, 6: 2, 7: 1}
