"""DoRA: its formula entry by entry on both axes, strength, which axis a magnitude is of, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from lorica.adapters import AdapterLayer, DoRA, LoCon, LoHa, LoKr, LoRA
from lorica.errors import ShapeError
from sample_layers import relative_error

IN, OUT, KERNEL = 5, 7, (2, 4)
FP32_NOISE = 1e-6  # relative; worst measured 2e-7 over 20 seeds


def lora(out: int = OUT, width: int = IN) -> LoRA:
    return LoRA(torch.randn(3, width), torch.randn(out, 3), alpha=1.5)


def test_by_outputs_each_row_gets_its_length() -> None:
    inner, weight, magnitude = lora(), torch.randn(OUT, IN), torch.rand(OUT, 1) + 0.5
    delta = DoRA(inner, magnitude).delta(weight)
    moved = weight + inner.delta(weight)
    for o in range(OUT):
        length = math.sqrt(sum(moved[o, i].item() ** 2 for i in range(IN)))
        for i in range(IN):
            expected = magnitude[o, 0].item() * moved[o, i].item() / length - weight[o, i].item()
            assert delta[o, i].item() == pytest.approx(expected, rel=FP32_NOISE, abs=FP32_NOISE)


def test_by_inputs_each_column_gets_its_length() -> None:
    inner, weight, magnitude = lora(), torch.randn(OUT, IN), torch.rand(1, IN) + 0.5
    delta = DoRA(inner, magnitude).delta(weight)
    moved = weight + inner.delta(weight)
    for i in range(IN):
        length = math.sqrt(sum(moved[o, i].item() ** 2 for o in range(OUT)))
        for o in range(OUT):
            expected = magnitude[0, i].item() * moved[o, i].item() / length - weight[o, i].item()
            assert delta[o, i].item() == pytest.approx(expected, rel=FP32_NOISE, abs=FP32_NOISE)


@pytest.mark.parametrize("axis", ["output", "input"])
def test_the_length_of_a_convolution_runs_over_the_kernel_too(axis: str) -> None:
    inner = LoRA(torch.randn(3, IN, *KERNEL), torch.randn(OUT, 3, 1, 1))
    weight = torch.randn(OUT, IN, *KERNEL)
    magnitude = torch.rand((OUT, 1, 1, 1) if axis == "output" else (1, IN, 1, 1)) + 0.5
    delta, moved = DoRA(inner, magnitude).delta(weight), weight + inner.delta(weight)
    o, i, h, w = 4, 2, 1, 3
    own = moved[o] if axis == "output" else moved[:, i]
    length = math.sqrt(sum(value.item() ** 2 for value in own.flatten()))
    expected = (
        magnitude.flatten()[o if axis == "output" else i].item() * moved[o, i, h, w] / length - weight[o, i, h, w]
    )
    assert delta[o, i, h, w].item() == pytest.approx(expected.item(), rel=FP32_NOISE, abs=FP32_NOISE)


@pytest.mark.parametrize(
    "inner",
    [
        LoCon(torch.randn(3, IN, 1, 1), torch.randn(3, 3, *KERNEL), torch.randn(OUT, 3, 1, 1), 2),
        LoHa(torch.randn(OUT, 2), torch.randn(2, IN * 8), torch.randn(OUT, 2), torch.randn(2, IN * 8)),
        LoKr(w1=torch.randn(1, IN), w2=torch.randn(OUT, 1, *KERNEL)),
    ],
    ids=lambda inner: inner.kind,
)
def test_every_method_can_move_the_weight(inner: AdapterLayer) -> None:
    weight, magnitude = torch.randn(OUT, IN, *KERNEL), torch.rand(1, IN, 1, 1) + 0.5
    delta = DoRA(inner, magnitude).delta(weight)
    moved = weight + inner.delta(weight)
    expected = magnitude * moved / moved.square().sum(dim=(0, 2, 3), keepdim=True).sqrt() - weight
    assert relative_error(delta, expected) < FP32_NOISE


def test_a_magnitude_of_the_base_lengths_and_no_move_change_nothing() -> None:
    weight = torch.randn(OUT, IN)
    still = LoRA(torch.randn(3, IN), torch.zeros(OUT, 3))
    assert DoRA(still, torch.linalg.vector_norm(weight, dim=1)).delta(weight).abs().max() < 1e-6


def test_a_row_of_zeros_stays_zeros() -> None:
    weight = torch.randn(OUT, IN)
    weight[2] = 0
    still = LoRA(torch.randn(3, IN), torch.zeros(OUT, 3))
    delta = DoRA(still, torch.ones(OUT)).delta(weight)
    assert torch.equal(delta[2], torch.zeros(IN))
    assert delta.isfinite().all()


@pytest.mark.parametrize(
    ("out", "width", "shape", "axis"),
    [
        (7, 5, (7,), "output"),
        (7, 5, (7, 1), "output"),
        (7, 5, (1, 5), "input"),
        (6, 6, (6, 1), "output"),
        (6, 6, (1, 6), "input"),
        (1, 5, (1, 1), "output"),
        (1, 5, (1, 5), "input"),
        (7, 1, (7, 1), "output"),
        (7, 1, (1, 1), "input"),
    ],
)
def test_the_shape_of_the_magnitude_tells_the_axis(out: int, width: int, shape: tuple[int, ...], axis: str) -> None:
    assert DoRA(lora(out, width), torch.ones(shape)).axis == axis


def test_peft_writes_the_outputs_of_a_convolution_in_the_second_place() -> None:
    inner = LoRA(torch.randn(3, IN, *KERNEL), torch.randn(OUT, 3, 1, 1))
    assert DoRA(inner, torch.ones(1, OUT, 1, 1)).axis == "output"
    square = LoRA(torch.randn(3, OUT, *KERNEL), torch.randn(OUT, 3, 1, 1))
    magnitude, weight = torch.rand(1, OUT, 1, 1) + 0.5, torch.randn(OUT, OUT, *KERNEL)
    assert DoRA(square, magnitude).axis == "input"  # LyCORIS and OneTrainer mean that; a reader of PEFT files says so
    by_output = DoRA(square, magnitude, axis="output")
    assert torch.equal(by_output.delta(weight), DoRA(square, magnitude.view(OUT, 1, 1, 1)).delta(weight))
    assert by_output != DoRA(square, magnitude)
    assert by_output.map(torch.clone).axis == "output"


def test_a_flattened_kernel_still_tells_the_inputs() -> None:
    inner = LoHa(torch.randn(OUT, 2), torch.randn(2, IN * 8), torch.randn(OUT, 2), torch.randn(2, IN * 8))
    layer = DoRA(inner, torch.ones(1, IN, 1, 1))
    assert layer.axis == "input"
    assert layer.fits((OUT, IN, *KERNEL))
    assert not layer.fits((OUT, IN * 2, 4, 1))


def test_the_bias_and_alpha_are_those_of_the_inner_layer() -> None:
    bias = torch.randn(OUT)
    layer = DoRA(LoRA(torch.randn(3, IN), torch.randn(OUT, 3), 1.5, bias=bias), torch.ones(OUT))
    assert torch.equal(layer.bias_delta(), bias)
    assert (layer.alpha, layer.rank) == (1.5, 3)
    assert list(layer.tensors) == ["down", "up", "bias", "magnitude"]


@pytest.mark.parametrize(
    ("shape", "axis", "message"),
    [
        ((6,), None, r"\(6,\), 6 lengths by output, .* \(7, 5\); expected 7"),
        ((5,), None, "expected 7"),  # a one-dimensional magnitude is by outputs, also where its length says otherwise
        ((1, 6), None, "expected 5"),
        ((7, 5), None, r"\(7, 5\); expected \(out, 1"),
        ((2, 1), None, r"expected \(out, 1"),
        ((7,), "input", "7 lengths by input"),
        ((1, 5), "output", "5 lengths by output"),
        ((0,), None, "expected 7"),
    ],
)
def test_a_magnitude_of_another_size_is_refused(shape: tuple[int, ...], axis: str | None, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        DoRA(lora(), torch.ones(shape), axis=axis)
