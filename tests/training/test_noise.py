"""Noise is plain unless asked otherwise, all of it from one generator, and each change does what its formula says."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from lorica.errors import ConfigError
from lorica.rng import generator
from lorica.training.config.objective import ObjectiveSettings
from lorica.training.objective.noise import add_offset, add_pyramid, draw_noise, draw_timesteps, perturb

SHAPE = (3, 20, 50)
PLAIN = torch.randn(SHAPE, generator=generator(1, 0, "plain"))
STATISTICAL = 4  # standard errors; the seeds are fixed, so a test that passes goes on passing


def source() -> torch.Generator:
    return generator(7, 2, "noise")


def test_by_default_it_is_plain_normal_noise() -> None:
    assert torch.equal(draw_noise(SHAPE, ObjectiveSettings(), source()), torch.randn(SHAPE, generator=source()))


def test_everything_comes_from_the_generator() -> None:
    settings = ObjectiveSettings(noise_offset=0.1, pyramid_noise_levels=3, pyramid_noise_discount=0.5)
    first = draw_noise(SHAPE, settings, source())
    torch.manual_seed(99)
    assert torch.equal(first, draw_noise(SHAPE, settings, source()))
    assert not torch.equal(first, draw_noise(SHAPE, settings, generator(7, 3, "noise")))


def test_the_offset_is_one_number_a_channel() -> None:
    drawn = torch.randn(3, 1, 1, generator=source())
    moved = add_offset(PLAIN, 0.25, source())
    for channel in range(3):
        expected = PLAIN[channel] + 0.25 * drawn[channel].item()
        torch.testing.assert_close(moved[channel], expected)


def test_the_offset_follows_the_noise_in_one_generator() -> None:
    both = source()
    noise, offset = torch.randn(SHAPE, generator=both), torch.randn(3, 1, 1, generator=both)
    assert torch.equal(draw_noise(SHAPE, ObjectiveSettings(noise_offset=0.5), source()), noise + 0.5 * offset)


def test_a_pyramid_written_out() -> None:
    drawn, total = source(), PLAIN
    for level in range(3):
        ratio = (2 + 2 * torch.rand((), generator=drawn).item()) ** level
        cells = (math.floor(20 / ratio), math.floor(50 / ratio))
        assert min(cells) > 1
        coarse = torch.randn(1, 3, *cells, generator=drawn)
        total = total + 0.6**level * F.interpolate(coarse, (20, 50), mode="bilinear")[0]
    torch.testing.assert_close(add_pyramid(PLAIN, 3, 0.6, source()), total / total.std())


def test_a_pyramid_ends_where_a_level_is_one_cell() -> None:
    assert torch.equal(add_pyramid(PLAIN, 9, 0.6, source()), add_pyramid(PLAIN, 30, 0.6, source()))
    assert not torch.equal(add_pyramid(PLAIN, 1, 0.6, source()), add_pyramid(PLAIN, 2, 0.6, source()))


def test_a_pyramid_has_unit_spread_and_more_of_it_in_common_among_neighbours() -> None:
    made = add_pyramid(PLAIN, 6, 0.8, source())
    assert made.std().item() == pytest.approx(1, abs=1e-5)

    def likeness(noise: torch.Tensor) -> float:
        return (noise[:, :, 1:] * noise[:, :, :-1]).mean().item()

    assert abs(likeness(PLAIN)) < STATISTICAL / math.sqrt(PLAIN.numel())
    assert likeness(made) > 0.2  # measured 0.53 for this seed


def test_perturbed_noise_is_longer_and_the_rest_is_new() -> None:
    moved = perturb(PLAIN, 0.3, source())
    assert torch.equal(moved, PLAIN + 0.3 * torch.randn(SHAPE, generator=source()))
    assert moved.square().mean().item() == pytest.approx(1.09, abs=STATISTICAL * 1.09 * math.sqrt(2 / PLAIN.numel()))


def test_timesteps_without_limits_are_those_of_before() -> None:
    assert torch.equal(draw_timesteps(9, source(), steps=1000), torch.randint(1000, (9,), generator=source()))


def test_timesteps_reach_both_limits_and_no_further() -> None:
    drawn = draw_timesteps(500, source(), steps=40, least=7, most=19)
    assert sorted(set(drawn.tolist())) == list(range(7, 19))
    assert set(draw_timesteps(500, source(), steps=40, least=37).tolist()) == {37, 38, 39}


@pytest.mark.parametrize(("least", "most"), [(-1, 5), (5, 5), (9, 5), (3, 41)])
def test_limits_that_leave_nothing_are_refused(least: int, most: int) -> None:
    with pytest.raises(ConfigError, match=f"from {least} to below {most} .* within 0 to 40"):
        draw_timesteps(2, source(), steps=40, least=least, most=most)


@pytest.mark.parametrize(
    "name", ["noise_offset", "pyramid_noise_levels", "pyramid_noise_discount", "input_perturbation"]
)
def test_numbers_below_zero_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: Input should be greater than or equal to 0, got -1"):
        ObjectiveSettings(**{name: -1})
