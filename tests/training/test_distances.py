"""Distances written out entry by entry, their ties to torch's own, and means over the part that counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from lorica.training.objective.losses import DISTANCES, pseudo_huber, sample_means, scheduled_delta

TARGET = torch.tensor([[1.0, 1.0, 1.0], [-2.0, -2.0, -2.0]], dtype=torch.float64)
ERRORS = torch.tensor([[0.1, -0.4, 3.0], [0.0, 0.5, -5.0]], dtype=torch.float64)
DELTA = torch.tensor([0.2, 0.5], dtype=torch.float64)
FORMULAS = {
    "mse": [[0.01, 0.16, 9.0], [0.0, 0.25, 25.0]],
    "huber": [[0.01, 0.2 * 0.6, 0.2 * 5.8], [0.0, 0.25, 0.5 * 9.5]],
    "smooth_l1": [[0.05, 0.6, 5.8], [0.0, 0.5, 9.5]],
    "pseudo_huber": [
        [0.4 * (math.sqrt(0.05) - 0.2), 0.4 * (math.sqrt(0.2) - 0.2), 0.4 * (math.sqrt(9.04) - 0.2)],
        [0.0, math.sqrt(0.5) - 0.5, math.sqrt(25.25) - 0.5],
    ],
}


def test_every_distance_is_written_out_here() -> None:
    assert FORMULAS.keys() == DISTANCES.keys()


@pytest.mark.parametrize("name", FORMULAS)
def test_a_distance_is_its_formula_with_a_delta_for_each_sample(name: str) -> None:
    torch.testing.assert_close(
        DISTANCES[name](TARGET + ERRORS, TARGET, DELTA), torch.tensor(FORMULAS[name], dtype=torch.float64)
    )


@pytest.mark.parametrize("name", FORMULAS)
def test_one_delta_serves_all_samples_and_shapes(name: str) -> None:
    predicted, target = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    single = DISTANCES[name](predicted, target, torch.tensor(0.3))
    assert single.shape == (2, 3, 4, 5)
    assert torch.equal(single, DISTANCES[name](predicted, target, torch.tensor([0.3, 0.3])))


def test_they_are_twice_those_of_torch() -> None:
    predicted, target = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    for name, theirs in (
        ("huber", F.huber_loss(predicted, target, reduction="none", delta=0.7)),
        ("smooth_l1", F.smooth_l1_loss(predicted, target, reduction="none", beta=0.7)),
    ):
        torch.testing.assert_close(DISTANCES[name](predicted, target, torch.tensor(0.7)), 2 * theirs)


@pytest.mark.parametrize("name", ["huber", "pseudo_huber"])
def test_small_errors_count_as_their_square_even_in_float32(name: str) -> None:
    error = torch.tensor([[1e-4]])
    found = DISTANCES[name](error, torch.zeros(1, 1), torch.tensor(0.5)).item()
    assert found == pytest.approx(1e-8, rel=1e-5)  # the plain formula gives 0 here


def test_no_error_has_a_gradient_of_zero_not_nan() -> None:
    for name in FORMULAS:
        predicted = torch.zeros(1, 2, requires_grad=True)
        DISTANCES[name](predicted, torch.zeros(1, 2), torch.tensor(0.5)).sum().backward()
        assert torch.equal(predicted.grad, torch.zeros(1, 2))


def test_the_schedule_of_delta_written_out() -> None:
    snr = torch.tensor([0.0, 1 / 9, 1.0, 4.0, 1e12], dtype=torch.float64)  # sigma: endless, 3, 1, 1/2, 0
    expected = [0.1, 0.9 / 16 + 0.1, 0.9 / 4 + 0.1, 0.9 / 2.25 + 0.1, 1.0]
    assert scheduled_delta(snr, 0.1).tolist() == pytest.approx(expected, rel=1e-5)


def test_a_scheduled_delta_serves_the_distance() -> None:
    delta = scheduled_delta(torch.tensor([0.01, 9.0]), 0.1)
    both = pseudo_huber(torch.full((2, 3), 2.0), torch.zeros(2, 3), delta)
    assert both[0].mean() < both[1].mean()


def test_without_weights_it_is_the_mean() -> None:
    losses = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(sample_means(losses), torch.stack([losses[0].mean(), losses[1].mean()]))
    torch.testing.assert_close(sample_means(losses, torch.full((2, 1, 4, 5), 0.3)), sample_means(losses))


def test_a_weighted_mean_written_out() -> None:
    losses = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]], [[[5.0, 6.0]], [[7.0, 8.0]]]])  # (b 2, c 2, h 1, w 2)
    weights = torch.tensor([[[[1.0, 0.0]]], [[[0.5, 1.5]]]])  # (b 2, c 1, h 1, w 2)
    expected = [(1 + 3) / 2, (0.5 * 5 + 1.5 * 6 + 0.5 * 7 + 1.5 * 8) / 4]
    assert sample_means(losses, weights).tolist() == pytest.approx(expected)


def test_a_small_mask_does_not_mean_a_small_loss() -> None:
    losses = torch.full((1, 3, 4, 5), 0.7)
    weights = torch.zeros(1, 1, 4, 5)
    weights[0, 0, 2, 3] = 1
    assert sample_means(losses, weights).item() == pytest.approx(0.7)


def test_a_sample_without_any_weight_has_loss_and_gradient_zero() -> None:
    losses = torch.rand(2, 3, 4, 5, requires_grad=True)
    weights = torch.ones(2, 1, 4, 5)
    weights[1] = 0
    means = sample_means(losses, weights)
    means.sum().backward()
    assert means[1].item() == 0
    assert torch.equal(losses.grad[1], torch.zeros(3, 4, 5))
    assert losses.grad[0].sum().item() == pytest.approx(1)
