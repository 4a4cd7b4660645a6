"""A low-rank layer with a sparse residual: its formula, entry by entry, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorica.adapters import LoCon, LoRA, Places, Residual
from lorica.errors import ShapeError

OUT, IN, RANK, ALPHA = 6, 5, 2, 3.0
KERNEL = (3, 2)


def places(*where: tuple[int, int], size: tuple[int, int] = (OUT, IN)) -> Places:
    indices = torch.tensor(where, dtype=torch.int16).reshape(-1, 2).T
    return Places(indices, torch.tensor(size, dtype=torch.int16))


@pytest.mark.parametrize("kernel", [(), KERNEL])
def test_each_number_is_added_at_its_place_times_the_scaling(kernel: tuple[int, ...]) -> None:
    ones = [1] * len(kernel)
    inner = LoRA(torch.randn(RANK, IN, *kernel), torch.randn(OUT, RANK, *ones), ALPHA)
    points = torch.Size(kernel).numel()
    where = ((0, 0), (5, 4 * points), (3, 2), (3, 2))  # one place twice
    values = torch.tensor([0.5, -2.0, 4.0, 0.25])
    delta = Residual(inner, values, places(*where, size=(OUT, IN * points))).delta(torch.zeros(OUT, IN, *kernel))
    expected = inner.delta(torch.zeros(OUT, IN, *kernel)).flatten(1)
    for (row, column), value in zip(where, values, strict=True):
        expected[row, column] += ALPHA / RANK * value
    assert torch.equal(delta.flatten(1), expected)


def test_it_may_stand_beside_a_core() -> None:
    inner = LoCon(torch.randn(RANK, IN, 1, 1), torch.randn(RANK, RANK, *KERNEL), torch.randn(OUT, RANK, 1, 1), ALPHA)
    layer = Residual(inner, torch.ones(1), places((2, 7), size=(OUT, IN * 6)))
    change = layer.delta(torch.zeros(OUT, IN, *KERNEL)) - inner.delta(torch.zeros(OUT, IN, *KERNEL))
    assert change.flatten(1)[2, 7] == pytest.approx(ALPHA / RANK, rel=1e-5)
    assert change.count_nonzero() == 1


def test_a_cast_leaves_the_places_alone() -> None:
    layer = Residual(lora(), torch.ones(1), places((4, 3)))
    half = layer.map(Tensor.half)
    assert half.places == layer.places
    assert half.tensors["values"].dtype == torch.float16
    assert half != layer
    assert Residual(lora(), torch.ones(1), places((4, 2))) != Residual(lora(), torch.ones(1), places((4, 3)))


def lora() -> LoRA:
    return LoRA(torch.ones(RANK, IN), torch.ones(OUT, RANK), ALPHA)


@pytest.mark.parametrize(
    ("values", "where", "message"),
    [
        (torch.ones(2), places((0, 0)), r"bias_indices has shape \(2, 1\) and bias_values \(2,\)"),
        (torch.ones(1), places((6, 0)), "places outside of a matrix of 6 x 5"),
        (torch.ones(1), places((0, 5)), "places outside of a matrix of 6 x 5"),
        (torch.ones(1), places((0, -1)), "places outside of a matrix of 6 x 5"),
        (torch.ones(1), places((0, 0), size=(5, 6)), r"bias_size is \[5, 6\] .* for a matrix of 6 x 5"),
        (torch.ones(1), Places(torch.zeros(2, 1), torch.tensor([6, 5])), "bias_indices are torch.float32"),
    ],
)
def test_places_that_are_none_are_refused(values: Tensor, where: Places, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Residual(lora(), values, where)


def test_no_places_are_no_change() -> None:
    weight = torch.zeros(OUT, IN)
    assert torch.equal(Residual(lora(), torch.ones(0), places()).delta(weight), lora().delta(weight))
