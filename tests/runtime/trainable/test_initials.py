"""Every start leaves the model as it is, PiSSA takes the principal part, and comes back as a plain LoRA, exactly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lorica.errors import ConfigError, ShapeError
from lorica.rng import generator
from lorica.runtime import Trainable
from lorica.runtime.trainable.initials import (
    STARTS,
    Initial,
    as_plain,
    gaussian,
    orthogonal,
    pissa,
    zero,
)

FP32_NOISE = 1e-5  # relative; worst measured 2.5e-6, of a singular value decomposition in float32
SHAPES = {"linear": (19, 23), "conv": (17, 5, 3, 2), "one input": (7, 1)}
RANK, SCALING = 3, 0.6


def source() -> torch.Generator:
    return generator(4, 0, "initial")


def delta(initial: Initial, shape: tuple[int, ...], scaling: float = 1.0) -> Tensor:
    return (scaling * initial.up @ initial.down.flatten(1)).view(shape)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", STARTS)
def test_a_start_changes_nothing_and_can_learn(name: str, shape: tuple[int, ...]) -> None:
    initial = STARTS[name](shape, RANK, source())
    assert initial.down.shape == (RANK, *shape[1:])
    assert initial.up.shape == (shape[0], RANK)
    assert initial.down.dtype == initial.up.dtype == torch.float32
    assert torch.equal(delta(initial, shape), torch.zeros(shape))
    assert initial.down.norm() > 0
    assert torch.equal(initial.down, STARTS[name](shape, RANK, source()).down)


def test_gaussian_is_what_a_trainable_starts_from() -> None:
    model = nn.Sequential(nn.Linear(23, 19))
    trained = Trainable(model, {"model": ["0"]}, rank=RANK, seed=0).adapter().components["model"]["0"]
    spread = gaussian((190, 230), 40, source()).down.std().item()
    assert spread == pytest.approx(1 / math.sqrt(40), rel=0.02)
    assert trained.tensors["down"].std().item() == pytest.approx(1 / math.sqrt(RANK), rel=0.3)


def test_zero_draws_evenly_within_its_bound() -> None:
    down = zero((5, 40, 3, 2), 50, source()).down
    bound = 1 / math.sqrt(240)
    assert down.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert down.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert abs(down.mean().item()) < 0.02 * bound


@pytest.mark.parametrize(("shape", "rank"), [((19, 23), 3), ((17, 5, 3, 2), 4), ((19, 6), 6)])
def test_orthogonal_rows_have_the_length_of_gaussian_ones(shape: tuple[int, ...], rank: int) -> None:
    down = orthogonal(shape, rank, source()).down.flatten(1)
    torch.testing.assert_close(down @ down.T, torch.eye(rank) * math.prod(shape[1:]) / rank, atol=1e-5, rtol=1e-5)


def test_with_more_rows_than_inputs_the_columns_are_orthogonal() -> None:
    down = orthogonal((19, 4), 9, source()).down
    torch.testing.assert_close(down.T @ down, torch.eye(4), atol=1e-5, rtol=1e-5)


def test_orthogonal_frames_point_everywhere() -> None:
    firsts = [orthogonal((2, 2), 1, generator(4, step, "initial")).down[0, 0].item() for step in range(60)]
    assert 15 < sum(value < 0 for value in firsts) < 45  # QR alone gives one sign only


@pytest.mark.parametrize("shape", [(19, 23), (17, 5, 3, 2)])
def test_pissa_is_the_principal_part(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=source())
    initial = pissa(weight, RANK, SCALING)
    left, values, right = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    principal = sum(values[i] * torch.outer(left[:, i], right[i]) for i in range(RANK)).view(shape).float()
    assert initial.down.shape == (RANK, *shape[1:])
    assert initial.up.shape == (shape[0], RANK)
    assert relative(delta(initial, shape, SCALING), principal) < FP32_NOISE
    for factor in (initial.up.T, initial.down.flatten(1)):  # the singular values are shared evenly
        torch.testing.assert_close(factor @ factor.T, torch.diag(values[:RANK].float() / SCALING), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("shape", [(19, 23), (17, 5, 3, 2)])
def test_the_rest_of_the_weight_has_the_other_singular_values(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=source())
    rest = weight - delta(pissa(weight, RANK, SCALING), shape, SCALING)
    values = torch.linalg.svdvals(weight.flatten(1))
    torch.testing.assert_close(torch.linalg.svdvals(rest.flatten(1))[0], values[RANK], atol=1e-5, rtol=1e-5)


def test_pissa_of_too_high_a_rank_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot take rank 8 from a weight of shape \(7, 5, 2\): at most 7"):
        pissa(torch.randn(7, 5, 2), 8)


@pytest.mark.parametrize("shape", [(19, 23), (17, 5, 3, 2)])
def test_a_trained_pissa_is_a_plain_lora_of_twice_the_rank(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=source())
    start = pissa(weight, RANK, SCALING)
    drawn = source()
    trained = Initial(*(factor + 0.1 * torch.randn(factor.shape, generator=drawn) for factor in start))
    plain = as_plain(trained.down, trained.up, start.down, start.up, SCALING)
    assert plain.rank == 2 * RANK
    assert plain.weight_shape == shape
    assert plain.scaling == pytest.approx(SCALING, rel=1e-15)
    during = weight - delta(start, shape, SCALING) + delta(trained, shape, SCALING)
    assert relative(weight + plain.delta(weight), during) < FP32_NOISE
    assert as_plain(*start, *start, SCALING).delta(weight).norm() < FP32_NOISE * weight.norm()


def test_plain_factors_are_copies() -> None:
    start = pissa(torch.randn(19, 23), RANK)
    plain = as_plain(*start, *start, 1.0)
    start.up.zero_()
    assert plain.up.norm() > 0


def test_other_shapes_than_at_the_start_are_refused() -> None:
    with pytest.raises(
        ShapeError, match=r"down \(3, 23\) and up \(19, 3\) must be shaped like .*\(2, 23\) and \(19, 2\)"
    ):
        as_plain(torch.randn(3, 23), torch.randn(19, 3), torch.randn(2, 23), torch.randn(19, 2), 1.0)
