"""VeRA: its formula entry by entry, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from lorica.adapters import VeRA
from lorica.errors import ShapeError

RANK, IN, OUT = 3, 5, 7
FP32_NOISE = 2e-6  # relative; worst measured 3e-7 over 20 seeds


def test_delta_scales_the_rows_of_both_shared_matrices() -> None:
    b, d, a = torch.randn(OUT), torch.randn(RANK), torch.randn(RANK, IN)
    shared_b = torch.randn(OUT, RANK)
    delta = VeRA(b, d, a, shared_b).delta(torch.zeros(OUT, IN))
    for o in range(OUT):
        for i in range(IN):
            inner = sum(shared_b[o, p].item() * d[p].item() * a[p, i].item() for p in range(RANK))
            assert delta[o, i].item() == pytest.approx(b[o].item() * inner, rel=FP32_NOISE, abs=FP32_NOISE)


def test_slices_of_the_shared_matrices_are_not_copied() -> None:
    a, shared_b = torch.randn(RANK, 11), torch.randn(13, RANK)
    layer = VeRA(torch.randn(OUT), torch.randn(RANK), a[:, :IN], shared_b[:OUT])
    assert layer.tensors["shared_a"].data_ptr() == a.data_ptr()
    assert (layer.weight_shape, layer.rank) == ((OUT, IN), RANK)


@pytest.mark.parametrize(
    "sizes",
    [
        [(6,), (3,), (3, 5), (7, 3)],
        [(7,), (2,), (3, 5), (7, 3)],
        [(7,), (3,), (3, 5), (7, 2)],
        [(7,), (3,), (3, 5, 1, 1), (7, 3)],
        [(7, 1), (3,), (3, 5), (7, 3)],
        [(7,), (0,), (0, 5), (7, 0)],
    ],
)
def test_parts_that_do_not_fit_are_refused(sizes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ShapeError, match=r"VeRA needs .*, got lambda_b \("):
        VeRA(*(torch.zeros(size) for size in sizes))
