"""LoRA: its formula entry by entry, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from lorica.adapters import LoRA
from lorica.errors import ShapeError

RANK, IN, OUT, KERNEL = 3, 5, 7, (2, 4)
FP32_NOISE = 2e-6  # relative; worst measured 4e-7 over 50 seeds


def test_delta_of_a_linear_is_alpha_over_r_times_up_down() -> None:
    down, up = torch.randn(RANK, IN), torch.randn(OUT, RANK)
    delta = LoRA(down, up, alpha=1.5).delta(torch.zeros(OUT, IN))
    for o in range(OUT):
        for i in range(IN):
            expected = 1.5 / RANK * sum(up[o, r].item() * down[r, i].item() for r in range(RANK))
            assert delta[o, i].item() == pytest.approx(expected, rel=FP32_NOISE, abs=FP32_NOISE)


def test_delta_of_a_convolution_sums_over_the_rank_at_each_kernel_point() -> None:
    down, up = torch.randn(RANK, IN, *KERNEL), torch.randn(OUT, RANK, 1, 1)
    delta = LoRA(down, up, alpha=6).delta(torch.zeros(OUT, IN, *KERNEL))
    for o in range(OUT):
        for i in range(IN):
            for h in range(KERNEL[0]):
                for w in range(KERNEL[1]):
                    expected = 2 * sum(up[o, r, 0, 0].item() * down[r, i, h, w].item() for r in range(RANK))
                    assert delta[o, i, h, w].item() == pytest.approx(expected, rel=FP32_NOISE, abs=FP32_NOISE)


def test_a_missing_alpha_stands_for_the_rank() -> None:
    layer = LoRA(torch.randn(RANK, IN), torch.randn(OUT, RANK))
    assert (layer.alpha, layer.scaling) == (RANK, 1.0)


def test_delta_of_half_precision_factors_is_computed_in_float32() -> None:
    down, up = torch.randn(RANK, IN).half(), torch.randn(OUT, RANK).half()
    delta = LoRA(down, up).delta(torch.zeros(OUT, IN, dtype=torch.float16))
    assert delta.dtype == torch.float32
    assert torch.equal(delta, up.float() @ down.float())


@pytest.mark.parametrize(
    ("down", "up", "message"),
    [
        ((3, 5), (7, 4), "down has rank 3 .* up has rank 4"),
        ((0, 5), (7, 0), "rank 0"),
        ((3, 5), (7, 3, 1, 1), "same number of dimensions"),
        ((3, 5, 2, 2), (7, 3, 2, 1), "each size must be 1"),
        ((3,), (7,), "same number of dimensions"),
    ],
)
def test_factors_that_do_not_fit_each_other_are_refused(
    down: tuple[int, ...], up: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        LoRA(torch.zeros(down), torch.zeros(up))


def test_equality_is_bit_for_bit() -> None:
    down, up = torch.randn(RANK, IN), torch.randn(OUT, RANK)
    assert LoRA(down, up) == LoRA(down.clone(), up.clone())
    assert LoRA(down, up) != LoRA(down, up, alpha=1)
    assert LoRA(down, up) != LoRA(down.double(), up.double())
    assert LoRA(down, up) != LoRA(down, torch.nextafter(up, up + 1))


def test_a_layer_cannot_be_changed() -> None:
    layer = LoRA(torch.randn(RANK, IN), torch.randn(OUT, RANK))
    with pytest.raises(AttributeError, match="immutable"):
        layer.alpha = 2.0
