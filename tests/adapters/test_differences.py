"""Full differences, weights that replace, norms and biases: their formulas entry by entry, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lorica.adapters import AdapterLayer, BiasOnly, Full, LoCon, LoRA, Norm, SetWeight
from lorica.errors import ShapeError

Maker = Callable[[Tensor], AdapterLayer]


def test_a_full_difference_is_the_delta_itself() -> None:
    diff, weight = torch.randn(7, 5, 2, 3), torch.randn(7, 5, 2, 3)
    assert torch.equal(Full(diff).delta(weight), diff)
    assert Full(diff).rank == 7
    assert Full(torch.randn(7, 5)).rank == 5


def test_set_weight_at_strength_1_is_the_new_weight_and_half_way_the_mean() -> None:
    new, weight = torch.randn(7, 5), torch.randn(7, 5)
    delta = SetWeight(new).delta(weight)
    for o in range(7):
        for i in range(5):
            assert delta[o, i].item() == pytest.approx(new[o, i].item() - weight[o, i].item(), rel=1e-6)
    assert torch.allclose(weight + delta, new, atol=1e-6)
    assert torch.allclose(weight + 0.5 * delta, (weight + new) / 2, atol=1e-6)  # ComfyUI would give ``new`` here too


def test_a_norm_scales_the_normalised_input_by_the_difference() -> None:
    norm, x, diff = nn.LayerNorm(5, eps=0.25), torch.randn(3, 5), torch.randn(5)
    got = Norm(diff).bypass(x, norm)
    assert got is not None
    for row in range(3):
        values = [x[row, i].item() for i in range(5)]
        mean = sum(values) / 5
        deviation = (sum((value - mean) ** 2 for value in values) / 5 + 0.25) ** 0.5
        for i in range(5):
            assert got[row, i].item() == pytest.approx((values[i] - mean) / deviation * diff[i].item(), abs=1e-5)


def test_a_norm_of_an_unknown_type_has_no_bypass() -> None:
    class Strange(nn.Module):
        weight = torch.ones(5)

    assert Norm(torch.randn(5)).bypass(torch.randn(3, 5), Strange()) is None


def test_a_bias_alone_leaves_the_weight() -> None:
    change = BiasOnly(torch.randn(7))
    assert torch.equal(change.delta(torch.randn(7, 5)), torch.zeros(7, 5))
    assert change.rank == 0
    assert all(change.fits(shape) for shape in [(7,), (7, 5), (7, 5, 3, 3)])
    assert not change.fits((5, 7))
    assert not change.fits(())


@pytest.mark.parametrize(
    "make",
    [
        lambda bias: LoRA(torch.randn(3, 5), torch.randn(7, 3), bias=bias),
        lambda bias: LoCon(torch.randn(3, 5, 1, 1), torch.randn(3, 3, 2, 4), torch.randn(7, 3, 1, 1), bias=bias),
        lambda bias: Full(torch.randn(7, 5), bias),
        lambda bias: SetWeight(torch.randn(7, 5), bias),
        lambda bias: Norm(torch.randn(7), bias),
        BiasOnly,
    ],
)
def test_the_change_of_the_bias_is_the_stored_one_in_float32(make: Maker) -> None:
    bias = torch.randn(7).half()
    change = make(bias)
    assert torch.equal(change.bias_delta(), bias.float())
    assert change.bias_delta().dtype == torch.float32
    with pytest.raises(ShapeError, match=r"bias has shape \(7, 1\)|one dimension"):
        make(bias.view(7, 1))


def test_without_a_bias_there_is_no_change_of_it() -> None:
    assert LoRA(torch.randn(3, 5), torch.randn(7, 3), alpha=1.5).bias_delta() is None
    assert Full(torch.randn(7, 5)).bias_delta(torch.randn(7)) is None


def test_the_bias_is_not_scaled_by_alpha_over_r() -> None:
    bias = torch.randn(7)
    assert torch.equal(LoRA(torch.randn(3, 5), torch.randn(7, 3), alpha=1.5, bias=bias).bias_delta(), bias)


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (Full, (7,), r"\(7,\); a full difference"),
        (Full, (7, 0), "two dimensions"),
        (SetWeight, (), "one dimension or more"),
        (Norm, (7, 5), r"\(7, 5\); the weight of a normalisation layer"),
        (Norm, (0,), "normalisation layer"),
        (BiasOnly, (0,), "one dimension"),
    ],
)
def test_tensors_of_other_dimensions_are_refused(make: Maker, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        make(torch.zeros(shape))


def test_a_layer_with_a_bias_differs_from_one_without() -> None:
    diff: Tensor = torch.randn(7, 5)
    assert Full(diff, torch.zeros(7)) != Full(diff)
    assert Full(diff) != SetWeight(diff)
