"""IA3: its formula entry by entry on both sides, as LyCORIS and as PEFT store it, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lorica.adapters import ANY, IA3
from lorica.errors import ShapeError
from sample_layers import relative_error

IN, OUT, KERNEL = 5, 7, (2, 3)
FP32_NOISE = 1e-6  # relative; worst measured 0 over 20 seeds


@pytest.mark.parametrize("shape", [(IN,), (1, IN), (1, IN, 1, 1)])
def test_on_the_input_each_column_is_scaled(shape: tuple[int, ...]) -> None:
    scale, weight = torch.randn(shape), torch.randn(OUT, IN, *KERNEL)
    delta = IA3(scale, on_input=True).delta(weight)
    for o in range(OUT):
        for i in range(IN):
            assert torch.equal(delta[o, i], weight[o, i] * scale.flatten()[i])


@pytest.mark.parametrize("shape", [(OUT,), (OUT, 1), (1, OUT, 1, 1)])
def test_on_the_output_each_row_is_scaled(shape: tuple[int, ...]) -> None:
    scale, weight = torch.randn(shape), torch.randn(OUT, IN, *KERNEL)
    delta = IA3(scale, on_input=False).delta(weight)
    for o in range(OUT):
        assert torch.equal(delta[o], weight[o] * scale.flatten()[o])


def test_a_factor_is_one_more_than_the_difference() -> None:
    difference, weight = torch.randn(IN), torch.randn(OUT, IN)
    factor = IA3(1 + difference, on_input=True, is_factor=True)
    assert torch.allclose(factor.delta(weight), IA3(difference, on_input=True).delta(weight), atol=1e-6)
    assert torch.equal(IA3(torch.ones(IN), on_input=True, is_factor=True).delta(weight), torch.zeros(OUT, IN))


def test_factors_of_outputs_multiply_the_bias_too_and_differences_leave_it() -> None:
    numbers, bias = torch.rand(OUT) + 1, torch.randn(OUT)
    change = IA3(numbers, on_input=False, is_factor=True).bias_delta(bias)
    assert change is not None
    for o in range(OUT):
        assert change[o].item() == pytest.approx(bias[o].item() * (numbers[o].item() - 1), rel=1e-5, abs=1e-6)
    assert IA3(numbers, on_input=False).bias_delta(bias) is None
    assert IA3(torch.rand(IN), on_input=True, is_factor=True).bias_delta(bias) is None
    assert IA3(numbers, on_input=False, is_factor=True).bias_delta() is None
    stored = torch.randn(OUT)
    both = IA3(numbers, on_input=False, is_factor=True, bias=stored).bias_delta(bias)
    assert torch.equal(both, change + stored)


def test_a_grouped_convolution_scales_the_inputs_of_each_group_alike() -> None:
    layer, x, scale = nn.Conv2d(6, 8, 3, groups=2), torch.randn(2, 6, 5, 4), torch.randn(3)
    got = IA3(scale, on_input=True).bypass(x, layer)
    with torch.no_grad():
        expected = nn.functional.conv2d(x * scale.repeat(2).view(1, 6, 1, 1), layer.weight, groups=2)
    assert relative_error(got, expected) < FP32_NOISE


def test_only_one_side_is_known() -> None:
    assert IA3(torch.randn(IN), on_input=True).weight_shape == (ANY, IN)
    assert IA3(torch.randn(OUT), on_input=False).weight_shape == (OUT, ANY)
    assert IA3(torch.randn(IN), on_input=True).fits((9, IN, 3, 3))
    assert not IA3(torch.randn(IN), on_input=True).fits((IN, 9))
    assert not IA3(torch.randn(IN), on_input=True).fits((IN,))


def test_the_settings_count_in_equality() -> None:
    scale = torch.randn(IN)
    assert IA3(scale, on_input=True) != IA3(scale, on_input=False)
    assert IA3(scale, on_input=True) != IA3(scale, on_input=True, is_factor=True)


@pytest.mark.parametrize("shape", [(2, 3), (0,), ()])
def test_a_scale_of_more_than_one_axis_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="a single axis longer than 1"):
        IA3(torch.zeros(shape), on_input=True)
