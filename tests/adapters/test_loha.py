"""LoHa: its formula entry by entry, when it is thin, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from lorica.adapters import LoHa
from lorica.errors import ShapeError

RANK, IN, OUT, KERNEL = 2, 5, 7, (3, 4)
FP32_NOISE = 4e-6  # relative; worst measured 1e-6 over 20 seeds


def halves(a: tuple[int, ...], b: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(size) for size in (a, b, a, b)]


def test_delta_multiplies_two_products_element_by_element() -> None:
    w1_a, w1_b, w2_a, w2_b = halves((OUT, RANK), (RANK, IN))
    delta = LoHa(w1_a, w1_b, w2_a, w2_b, alpha=3.0).delta(torch.zeros(OUT, IN))
    for o in range(OUT):
        for i in range(IN):
            first = sum(w1_a[o, p].item() * w1_b[p, i].item() for p in range(RANK))
            second = sum(w2_a[o, p].item() * w2_b[p, i].item() for p in range(RANK))
            assert delta[o, i].item() == pytest.approx(1.5 * first * second, rel=FP32_NOISE, abs=FP32_NOISE)


def test_a_kernel_is_flattened_after_the_input() -> None:
    w1_a, w1_b, w2_a, w2_b = halves((OUT, RANK), (RANK, IN * 12))
    delta = LoHa(w1_a, w1_b, w2_a, w2_b).delta(torch.zeros(OUT, IN, *KERNEL))
    o, i, h, w = 6, 3, 2, 1
    column = i * 12 + h * 4 + w
    first = sum(w1_a[o, p].item() * w1_b[p, column].item() for p in range(RANK))
    second = sum(w2_a[o, p].item() * w2_b[p, column].item() for p in range(RANK))
    assert delta[o, i, h, w].item() == pytest.approx(first * second, rel=FP32_NOISE, abs=FP32_NOISE)


def test_with_cores_each_half_sums_over_both_ranks() -> None:
    w1_a, w1_b, w2_a, w2_b = halves((RANK, OUT), (RANK, IN))
    t1, t2 = torch.randn(2, RANK, RANK, *KERNEL)
    layer = LoHa(w1_a, w1_b, w2_a, w2_b, alpha=6, t1=t1, t2=t2)
    delta = layer.delta(torch.zeros(OUT, IN, *KERNEL))
    assert layer.weight_shape == (OUT, IN, *KERNEL)
    for o in range(OUT):
        for i in range(IN):
            for h, w in [(0, 0), (2, 3), (1, 2)]:
                first, second = (
                    sum(
                        t[p, q, h, w].item() * a[p, o].item() * b[q, i].item() for p in range(RANK) for q in range(RANK)
                    )
                    for t, a, b in ((t1, w1_a, w1_b), (t2, w2_a, w2_b))
                )
                expected = pytest.approx(3 * first * second, rel=FP32_NOISE, abs=FP32_NOISE)
                assert delta[o, i, h, w].item() == expected


def test_factors_have_the_square_of_the_rank_and_only_where_that_is_thin() -> None:
    factors = LoHa(*halves((20, 2), (2, 12))).factors()
    assert factors is not None
    assert (factors.down.shape, factors.up.shape) == ((4, 12), (20, 4))
    assert LoHa(*halves((20, 3), (3, 12))).factors() is None  # 9 * (20 + 12) > 20 * 12
    assert LoHa(*halves((4, 1), (1, 2))).factors() is not None
    assert LoHa(*halves((2, 1), (1, 2))).factors() is None  # as many numbers as the matrix: nothing gained


def test_a_flattened_kernel_fits_every_weight_of_that_matrix_unless_the_shape_is_said() -> None:
    tensors = halves((OUT, RANK), (RANK, IN * 12))
    layer, told = LoHa(*tensors), LoHa(*tensors, shape=(OUT, IN, *KERNEL))
    assert (layer.weight_shape, told.weight_shape) == ((OUT, 60), (OUT, IN, *KERNEL))
    assert all(layer.fits(shape) for shape in [(OUT, IN, *KERNEL), (OUT, 60), (OUT, 60, 1, 1)])
    assert not layer.fits((OUT, IN, 3, 3))
    assert told.fits((OUT, IN, *KERNEL))
    assert not told.fits((OUT, 60))
    assert layer != told


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([(7, 2), (2, 5), (7, 3), (3, 5)], {}, "do not fit"),
        ([(7, 2), (3, 5), (7, 2), (3, 5)], {}, "do not fit"),
        ([(7, 2), (2, 5), (6, 2), (2, 5)], {}, "do not fit"),
        ([(7, 2), (2, 5), (7, 2), (2, 4)], {}, "do not fit"),
        ([(7, 0), (0, 5), (7, 0), (0, 5)], {}, "none of them 0"),
        ([(7, 2), (2, 5, 1, 1), (7, 2), (2, 5)], {}, "two dimensions"),
        ([(7, 2), (2, 5), (7, 2), (2, 5)], {"t1": torch.zeros(2, 2, 3)}, "either two cores"),
        ([(7, 2), (2, 5), (7, 2), (2, 5)], {"t1": torch.zeros(2, 2, 3), "t2": torch.zeros(2, 2, 3)}, "do not fit"),
        ([(2, 7), (2, 5), (2, 7), (2, 5)], {"t1": torch.zeros(2, 2, 3), "t2": torch.zeros(2, 2, 4)}, "the cores"),
        ([(2, 7), (2, 5), (2, 7), (2, 5)], {"t1": torch.zeros(3, 2, 3), "t2": torch.zeros(3, 2, 3)}, "the cores"),
        ([(7, 2), (2, 45), (7, 2), (2, 45)], {"shape": (7, 5, 3, 2)}, r"\(7, 5, 3, 2\) cannot be changed .*\(7, 2\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(sizes: list[tuple[int, ...]], options: dict, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        LoHa(*(torch.zeros(size) for size in sizes), **options)
