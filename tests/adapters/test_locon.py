"""LoCon with a Tucker core: its formula entry by entry, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from lorica.adapters import LoCon
from lorica.errors import ShapeError

RANK, IN, OUT, KERNEL = 3, 5, 7, (2, 4)
FP32_NOISE = 4e-6  # relative; worst measured 9e-7 over 50 seeds


def test_delta_sums_over_both_ranks_of_the_core() -> None:
    down, up = torch.randn(RANK, IN, 1, 1), torch.randn(OUT, RANK, 1, 1)
    mid = torch.randn(RANK, RANK, *KERNEL)
    delta = LoCon(down, mid, up, alpha=1.5).delta(torch.zeros(OUT, IN, *KERNEL))
    for o in range(OUT):
        for i in range(IN):
            for h in range(KERNEL[0]):
                for w in range(KERNEL[1]):
                    expected = 0.5 * sum(
                        up[o, p, 0, 0].item() * mid[p, q, h, w].item() * down[q, i, 0, 0].item()
                        for p in range(RANK)
                        for q in range(RANK)
                    )
                    assert delta[o, i, h, w].item() == pytest.approx(expected, rel=FP32_NOISE, abs=FP32_NOISE)


@pytest.mark.parametrize(
    ("down", "mid", "up", "message"),
    [
        ((3, 5, 1, 1), (3, 2, 2, 2), (7, 3, 1, 1), "ranks differ"),
        ((3, 5, 1, 1), (3, 3, 2, 2), (7, 4, 1, 1), "ranks differ"),
        ((3, 5, 2, 2), (3, 3, 2, 2), (7, 3, 1, 1), "1 x 1"),
        ((3, 5), (3, 3), (7, 3), "three convolution tensors"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    down: tuple[int, ...], mid: tuple[int, ...], up: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        LoCon(torch.zeros(down), torch.zeros(mid), torch.zeros(up))
