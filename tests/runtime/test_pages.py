"""Memory in large pages is like any other."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest
import torch

from lorica.runtime.pages import LARGE_PAGE, Pages, empty_like


@pytest.mark.parametrize("rows", [3, LARGE_PAGE // (5 * 3 * 2) + 1])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_copy_has_the_shape_the_type_the_order_and_the_values(
    rows: int, order: torch.memory_format, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    tensor = torch.randn(rows, 5, 3, 2).to(dtype).to(memory_format=order)
    twin = empty_like(tensor).copy_(tensor)
    assert torch.equal(twin, tensor)
    assert (twin.shape, twin.stride(), twin.dtype) == (tensor.shape, tensor.stride(), tensor.dtype)
    assert twin.data_ptr() != tensor.data_ptr()


def test_a_part_of_a_larger_tensor_is_copied_close_together() -> None:
    whole = torch.arange(4 * LARGE_PAGE // 4, dtype=torch.float32).view(-1, 4)
    twin = empty_like(whole[:, :3]).copy_(whole[:, :3])
    assert torch.equal(twin, whole[:, :3])
    assert twin.is_contiguous()


def test_memory_lives_as_long_as_a_view_of_it() -> None:
    part = empty_like(torch.empty(LARGE_PAGE)).fill_(3.0)[5:9]
    gc.collect()
    assert part.tolist() == [3.0] * 4


def test_a_piece_is_handed_out_again_when_no_view_of_it_is_left() -> None:
    pages = Pages(most=9 * LARGE_PAGE)
    whole = pages.take(2 * LARGE_PAGE + 5)
    where, part = whole.data_ptr(), whole[7:11]
    part.fill_(3)
    del whole
    gc.collect()
    assert pages.kept == 0  # a part is in use
    assert pages.take(2 * LARGE_PAGE + 5).data_ptr() != where
    del part
    assert pages.kept == 2 * 3 * LARGE_PAGE
    again = pages.take(2 * LARGE_PAGE + 1)
    assert (len(again), again.data_ptr(), again[7:11].tolist()) == (2 * LARGE_PAGE + 1, where, [3] * 4)


def test_the_smallest_piece_that_suffices_is_taken_and_none_that_is_far_too_large() -> None:
    pages = Pages(most=99 * LARGE_PAGE)
    large, small = pages.take(9 * LARGE_PAGE), pages.take(3 * LARGE_PAGE)
    at_large, at_small = large.data_ptr(), small.data_ptr()
    del large, small
    tiny, middle, wide = (pages.take(count * LARGE_PAGE) for count in (2, 3, 4))
    assert tiny.data_ptr() == at_small
    assert middle.data_ptr() == at_large
    assert wide.data_ptr() not in (at_large, at_small)
    del middle
    assert pages.take(2 * LARGE_PAGE).data_ptr() != at_large  # four times as large as needed at most


def test_no_more_is_kept_than_allowed_and_nothing_after_clearing() -> None:
    pages = Pages(most=4 * LARGE_PAGE)
    taken = [pages.take(count * LARGE_PAGE) for count in (3, 2, 1)]
    while taken:
        taken.pop()
        assert pages.kept <= pages.most
    assert pages.kept == 3 * LARGE_PAGE  # 1 and 2 made room for the last
    pages.trim()
    assert pages.kept == 0


def test_what_was_used_longest_ago_goes_first() -> None:
    pages = Pages(most=12 * LARGE_PAGE)
    taken = [pages.take(count * LARGE_PAGE) for count in (2, 7, 1, 4)]
    where = taken[3].data_ptr()
    for _ in range(4):
        taken.pop(0)
    assert pages.kept == (7 + 1 + 4) * LARGE_PAGE  # 2 went for the last
    pages.trim(4 * LARGE_PAGE)
    assert pages.kept == 4 * LARGE_PAGE
    assert pages.take(3 * LARGE_PAGE).data_ptr() == where


def test_what_is_larger_than_all_that_may_be_kept_drives_nothing_out() -> None:
    pages = Pages(most=5 * LARGE_PAGE)
    taken = [pages.take(count * LARGE_PAGE) for count in (2, 7)]
    pages.trim(8 * LARGE_PAGE)  # which allows no more than before
    taken.clear()
    assert pages.kept == 2 * LARGE_PAGE


def test_what_comes_back_after_a_trim_is_bound_until_the_next_is_taken() -> None:
    pages = Pages(most=99 * LARGE_PAGE)
    taken = [pages.take(count * LARGE_PAGE) for count in (3, 1)]
    pages.trim(2 * LARGE_PAGE)
    taken.clear()
    assert pages.kept == LARGE_PAGE
    last = pages.take(5 * LARGE_PAGE)
    del last
    assert pages.kept == (1 + 5) * LARGE_PAGE


def test_little_memory_is_not_kept() -> None:
    pages = Pages(most=4 * LARGE_PAGE)
    assert len(pages.take(5)) == 5
    assert pages.kept == 0


FORK = """
import os
from lorica.runtime.pages import LARGE_PAGE, Pages
mine = Pages(most=0).take(LARGE_PAGE)
mine[5:9].fill_(3)
child = os.fork()
if not child:
    mine[5:9].fill_(4)  # few: the threads that larger work is shared among are not there in a fork
    os._exit(0)
os.waitpid(child, 0)
assert mine[5:9].tolist() == [3] * 4
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")
def test_what_a_forked_process_writes_is_not_seen_here() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=60)
