"""LoKr: its formula entry by entry in every layout, the scaling of whole factors, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lorica.adapters import LoKr
from lorica.errors import ShapeError
from sample_layers import relative_error

OUT1, OUT2, IN1, IN2, RANK, KERNEL = 2, 5, 3, 4, 2, (1, 3)
FP32_NOISE = 1e-6  # relative; worst measured 1e-7 over 20 seeds


def expected_entries(w1: Tensor, w2: Tensor) -> Tensor:
    """kron(w1, w2) written out: the second factor's kernel, if any, stays as it is."""
    rows, columns = w1.shape[0] * w2.shape[0], w1.shape[1] * w2.shape[1]
    result = torch.zeros(rows, columns, *w2.shape[2:])
    for o in range(rows):
        for i in range(columns):
            result[o, i] = w1[o // w2.shape[0], i // w2.shape[1]] * w2[o % w2.shape[0], i % w2.shape[1]]
    return result


def test_delta_is_the_kronecker_product_of_two_whole_factors() -> None:
    w1, w2 = torch.randn(OUT1, IN1), torch.randn(OUT2, IN2)
    delta = LoKr(w1=w1, w2=w2).delta(torch.zeros(OUT1 * OUT2, IN1 * IN2))
    assert torch.equal(delta, expected_entries(w1, w2))


@pytest.mark.parametrize("alpha", [None, 1.0, 9999999999.0, math.inf])
def test_with_two_whole_factors_alpha_is_kept_and_means_nothing(alpha: float | None) -> None:
    w1, w2 = torch.randn(OUT1, IN1), torch.randn(OUT2, IN2)
    layer = LoKr(w1=w1, w2=w2, alpha=alpha)
    assert torch.equal(layer.delta(torch.zeros(10, 12)), expected_entries(w1, w2))
    assert layer.scaling == 1.0
    assert alpha is None or layer.alpha == alpha
    assert layer.rank == 2 * 4  # min(2, 3) * min(5, 4)


def test_a_kernel_belongs_to_the_second_factor() -> None:
    w1, w2 = torch.randn(OUT1, IN1), torch.randn(OUT2, IN2, *KERNEL)
    layer = LoKr(w1=w1, w2=w2)
    assert layer.weight_shape == (OUT1 * OUT2, IN1 * IN2, *KERNEL)
    assert torch.equal(layer.delta(torch.zeros(layer.weight_shape)), expected_entries(w1, w2))


def test_a_factored_second_scales_by_its_rank() -> None:
    w1, w2_a, w2_b = torch.randn(OUT1, IN1), torch.randn(OUT2, RANK), torch.randn(RANK, IN2)
    w2 = torch.tensor(
        [[sum(w2_a[o, p].item() * w2_b[p, i].item() for p in range(RANK)) for i in range(IN2)] for o in range(OUT2)]
    )
    layer = LoKr(w1=w1, w2_a=w2_a, w2_b=w2_b, alpha=3.0)
    assert (layer.rank, layer.scaling) == (RANK, 1.5)
    assert relative_error(layer.delta(torch.zeros(10, 12)), 1.5 * expected_entries(w1, w2)) < FP32_NOISE


def test_a_factored_kernel_is_flattened_after_the_input() -> None:
    w1, w2_a, w2_b = torch.randn(OUT1, IN1), torch.randn(OUT2, RANK), torch.randn(RANK, IN2 * 3)
    w2 = torch.zeros(OUT2, IN2, *KERNEL)
    for o in range(OUT2):
        for i in range(IN2):
            for w in range(3):
                w2[o, i, 0, w] = sum(w2_a[o, p] * w2_b[p, i * 3 + w] for p in range(RANK))
    shape = (OUT1 * OUT2, IN1 * IN2, *KERNEL)
    layer = LoKr(w1=w1, w2_a=w2_a, w2_b=w2_b, shape=shape)
    assert relative_error(layer.delta(torch.zeros(shape)), expected_entries(w1, w2)) < FP32_NOISE
    assert layer.fits(shape)
    assert not layer.fits((10, 12, 3, 1))
    flat = LoKr(w1=w1, w2_a=w2_a, w2_b=w2_b)
    assert flat.weight_shape == (10, 36)
    assert flat.fits(shape)
    assert not flat.fits((10, 12, 2, 2))


def test_a_factored_first_scales_by_its_rank_if_the_second_is_whole() -> None:
    w1_a, w1_b, w2 = torch.randn(OUT1, 1), torch.randn(1, IN1), torch.randn(OUT2, IN2)
    layer = LoKr(w1_a=w1_a, w1_b=w1_b, w2=w2, alpha=0.5)
    assert (layer.rank, layer.scaling) == (1, 0.5)
    w1 = torch.tensor([[w1_a[o, 0].item() * w1_b[0, i].item() for i in range(IN1)] for o in range(OUT1)])
    assert relative_error(layer.delta(torch.zeros(10, 12)), 0.5 * expected_entries(w1, w2)) < FP32_NOISE


def test_with_both_factored_the_rank_of_the_second_counts() -> None:
    w1_a, w1_b = torch.randn(OUT1, 1), torch.randn(1, IN1)
    layer = LoKr(w1_a=w1_a, w1_b=w1_b, w2_a=torch.randn(OUT2, RANK), w2_b=torch.randn(RANK, IN2), alpha=3.0)
    assert layer.scaling == 1.5


def test_a_core_sums_over_both_ranks() -> None:
    w1, w2_a, w2_b = torch.randn(OUT1, IN1), torch.randn(RANK, OUT2), torch.randn(RANK, IN2)
    t2 = torch.randn(RANK, RANK, *KERNEL)
    w2 = torch.zeros(OUT2, IN2, *KERNEL)
    for o in range(OUT2):
        for i in range(IN2):
            for w in range(3):
                w2[o, i, 0, w] = sum(t2[p, q, 0, w] * w2_a[p, o] * w2_b[q, i] for p in range(RANK) for q in range(RANK))
    layer = LoKr(w1=w1, w2_a=w2_a, w2_b=w2_b, t2=t2, alpha=1.0)
    assert layer.weight_shape == (OUT1 * OUT2, IN1 * IN2, *KERNEL)
    assert relative_error(layer.delta(torch.zeros(layer.weight_shape)), expected_entries(w1, w2) / 2) < FP32_NOISE


def test_a_kernel_that_the_tensors_tell_fits_no_other() -> None:
    whole = LoKr(w1=torch.randn(OUT1, IN1), w2=torch.randn(OUT2, IN2, *KERNEL))
    cored = LoKr(
        w1=torch.randn(OUT1, IN1), w2_a=torch.randn(2, OUT2), w2_b=torch.randn(2, IN2), t2=torch.randn(2, 2, *KERNEL)
    )
    for layer in (whole, cored):
        assert layer.fits((10, 12, *KERNEL))
        assert not layer.fits((10, 12, 3, 1))
        assert not layer.fits((10, 36))


def test_factors_are_kept_where_one_of_the_two_is_thin() -> None:
    thin = LoKr(w1=torch.randn(2, 3), w2_a=torch.randn(20, 1), w2_b=torch.randn(1, 30)).factors()
    assert thin is not None
    assert (thin.down.shape, thin.up.shape) == ((2, 90), (40, 2))  # min(2, 3) * 1
    assert LoKr(w1=torch.randn(2, 3), w2=torch.randn(20, 30)).factors() is None


def test_bypass_never_builds_the_product() -> None:
    layer, x = nn.Linear(8, 15), torch.randn(1, 8)
    change = LoKr(w1=torch.randn(3, 2), w2_a=torch.randn(5, 1), w2_b=torch.randn(1, 4))
    built: list[int] = []
    original = torch.kron
    try:
        torch.kron = lambda *args: built.append(1) or original(*args)
        assert change.bypass(x, layer).shape == (1, 15)
    finally:
        torch.kron = original
    assert not built


def test_grouped_convolutions_and_embeddings_have_no_bypass() -> None:
    grouped = nn.Conv2d(8, 10, 1, groups=2)
    change = LoKr(w1=torch.randn(2, 2), w2=torch.randn(5, 2, 1, 1))
    assert change.bypass(torch.randn(2, 8, 3, 3), grouped) is None
    assert change.bypass(torch.tensor([1, 2]), nn.Embedding(10, 4)) is None


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"w2": (5, 4)}, "needs w1 or both"),
        ({"w1": (2, 3)}, "needs w2 or both"),
        ({"w1": (2, 3), "w2_a": (5, 2)}, "needs w2 or both"),
        ({"w1": (2, 3), "w2": (5, 4), "w2_b": (2, 4)}, "needs w2 or both"),
        ({"w1": (2, 3), "w2": (5, 4), "t2": (2, 2, 3)}, "needs w. or both"),
        ({"w1": (2, 3, 1, 1), "w2": (5, 4)}, "need two dimensions"),
        ({"w1": (2,), "w2": (5, 4)}, "need two dimensions"),
        ({"w1": (2, 0), "w2": (5, 4)}, "do not fit"),
        ({"w1": (2, 3), "w2_a": (5, 2), "w2_b": (3, 4)}, r"do not fit .*\(5, 2\)"),
        ({"w1_a": (2, 2), "w1_b": (1, 3), "w2": (5, 4)}, "do not fit"),
        ({"w1": (2, 3), "w2_a": (5, 2), "w2_b": (2, 4), "t2": (2, 2, 3)}, "do not fit"),
        ({"w1": (2, 3), "w2_a": (2, 5), "w2_b": (2, 4), "t2": (2, 3, 3)}, "do not fit"),
        ({"w1": (2, 3), "w2_a": (2, 5), "w2_b": (3, 4), "t2": (2, 2, 3)}, "do not fit"),
    ],
)
def test_parts_that_do_not_fit_are_refused(sizes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        LoKr(**{name: torch.zeros(size) for name, size in sizes.items()})


def test_a_shape_that_is_not_the_product_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(10, 13\) cannot be changed"):
        LoKr(w1=torch.zeros(2, 3), w2=torch.zeros(5, 4), shape=(10, 13))
