"""Memory in large pages is like any other."""

from __future__ import annotations

import gc

import pytest
import torch

from lorica.runtime.pages import LARGE_PAGE, empty_like


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
