"""Settings of the loss and the noise, from end to end: the loss of the first step is that of the formula."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from lorica.data.batches import members
from lorica.errors import ConfigError
from lorica.rng import generator
from lorica.training.config.config import RunConfig
from lorica.training.config.objective import ObjectiveSettings
from lorica.training.objective.noise import draw_noise
from lorica.training.session import Session
from tiny_training import assert_resumes

Settings = Callable[..., RunConfig]
FP32_NOISE = 1e-5  # relative; the loss is a mean of some hundred squares near 1
SNR = Callable[[Tensor], Tensor]


class Facts:
    """The first step of a session, put together by hand: what goes in, what comes out, what is wanted."""

    def __init__(self, session: Session, *, least: int = 0, most: int = 1000, zero: bool = False) -> None:
        loop = session.loop
        row = members(0, 2, 5, partial(generator, 0))
        self.time = torch.randint(least, most, (2,), generator=generator(0, 0, "time"))
        kept = DDIMScheduler(clip_sample=False, rescale_betas_zero_snr=zero).alphas_cumprod[self.time]
        self.a, self.s = kept.sqrt().view(2, 1, 1, 1), (1 - kept).sqrt().view(2, 1, 1, 1)
        self.snr = kept / (1 - kept)
        self.latents = torch.stack(
            [loop.dataset.draw(i, generator(0, 0, f"picture/{at}")).latents for at, i in enumerate(row)]
        )
        self.plain = torch.stack([torch.randn(4, 8, 8, generator=generator(0, 0, f"noise/{at}")) for at in range(2)])
        self.loop, self.row = loop, row

    @torch.no_grad()
    def error(self, noise: Tensor | None = None, mixed: Tensor | None = None) -> Tensor:
        """Prediction minus velocity, the adapter being nothing yet."""
        noise = self.plain if noise is None else noise
        noisy = self.a * self.latents + self.s * (noise if mixed is None else mixed)
        told = self.loop.dataset.conditioning(self.row, [torch.Generator()] * 2)
        return self.loop.recipe.predict(noisy, self.time, told) - (self.a * noise - self.s * self.latents)


def first_loss(session: Session) -> float:
    return next(session.loop.run(0, lambda: False)).loss


def huber(error: Tensor, delta: float) -> Tensor:
    size = error.abs()
    return torch.where(size <= delta, size.square(), delta * (2 * size - delta))


LOSSES: dict[str, tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "mse": ({}, lambda error: error.square()),
    "huber": ({"loss_type": "huber", "huber_delta": 0.4}, lambda error: huber(error, 0.4)),
    "smooth_l1": ({"loss_type": "smooth_l1", "huber_delta": 0.3}, lambda error: huber(error, 0.3) / 0.3),
    "pseudo_huber": (
        {"loss_type": "pseudo_huber", "huber_c": 0.2},
        lambda error: 0.4 * ((error.square() + 0.04).sqrt() - 0.2),
    ),
}
WEIGHTS: dict[str, tuple[dict[str, Any], SNR]] = {
    "min_snr": ({"snr_gamma": 0.02}, lambda snr: snr.clamp(max=0.02) / (snr + 1)),
    "soft": ({"min_snr_gamma": 0.02, "soft_min_snr": True}, lambda snr: snr * 0.02 / (snr + 0.02) / (snr + 1)),
    "debiased": ({"debiased_estimation": True}, lambda snr: snr.sqrt() / (snr + 1)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_distance_is_the_one_asked_for(opened: Any, name: str) -> None:
    changes, formula = LOSSES[name]
    session = opened(**changes)
    expected = formula(Facts(session).error()).mean().item()
    assert first_loss(session) == pytest.approx(expected, rel=FP32_NOISE)


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_loss_is_weighted_by_the_noise_level(opened: Any, name: str) -> None:
    changes, formula = WEIGHTS[name]
    session = opened(**changes)
    facts = Facts(session)
    expected = (facts.error().square().flatten(1).mean(1) * formula(facts.snr)).mean().item()
    assert first_loss(session) == pytest.approx(expected, rel=1e-4)  # the scheduler here is in float32


def test_the_corner_of_the_loss_follows_the_noise(opened: Any) -> None:
    session = opened(loss_type="huber", huber_delta=0.1, huber_schedule="snr")
    facts = Facts(session)
    sigma = 1 / facts.snr.sqrt()
    delta = (0.9 / (1 + sigma) ** 2 + 0.1).view(2, 1, 1, 1)
    size = facts.error().abs()
    expected = torch.where(size <= delta, size.square(), delta * (2 * size - delta)).mean().item()
    assert first_loss(session) == pytest.approx(expected, rel=FP32_NOISE)


def test_noise_has_an_offset_and_a_pyramid(opened: Any) -> None:
    changes = {"noise_offset": 0.3, "multires_noise_iterations": 2, "multires_noise_discount": 0.6}
    session = opened(**changes)
    facts, made = (
        Facts(session),
        ObjectiveSettings(noise_offset=0.3, pyramid_noise_levels=2, pyramid_noise_discount=0.6),
    )
    noise = torch.stack([draw_noise((4, 8, 8), made, generator(0, 0, f"noise/{at}")) for at in range(2)])
    expected = facts.error(noise).square().mean().item()
    assert first_loss(session) == pytest.approx(expected, rel=FP32_NOISE)


def test_the_input_is_noisier_than_the_target(opened: Any) -> None:
    session = opened(input_perturbation=0.5)
    facts = Facts(session)
    more = [torch.randn(4, 8, 8, generator=generator(0, 0, f"perturbation/{at}")) for at in range(2)]
    expected = facts.error(mixed=facts.plain + 0.5 * torch.stack(more)).square().mean().item()
    assert first_loss(session) == pytest.approx(expected, rel=FP32_NOISE)


def test_timesteps_keep_to_their_limits_and_the_schedule_ends_in_noise(opened: Any) -> None:
    session = opened(min_timestep=990, max_timestep=1000, rescale_zero_terminal_snr=True)
    facts = Facts(session, least=990, zero=True)
    expected = facts.error().square().mean().item()
    assert first_loss(session) == pytest.approx(expected, rel=1e-4)


def test_limits_beyond_the_schedule_are_refused_at_once(opened: Any) -> None:
    with pytest.raises(ConfigError, match="timesteps from 5 to below 1001 were asked for"):
        opened(min_timestep=5, max_timestep=1001)


def test_a_model_that_predicts_noise_cannot_end_in_noise(opened: Any) -> None:
    with pytest.raises(ConfigError, match="leave out rescale_zero_terminal_snr"):
        opened(prediction_type="epsilon", rescale_zero_terminal_snr=True)


def test_a_run_with_all_of_it_resumes_bit_for_bit(settings: Settings, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "loss_type": "huber",
        "huber_schedule": "snr",
        "snr_gamma": 5.0,
        "soft_min_snr": True,
        "noise_offset": 0.1,
        "pyramid_noise_levels": 3,
        "input_perturbation": 0.1,
        "max_timestep": 900,
        "rescale_zero_terminal_snr": True,
    }
    assert_resumes(settings, tmp_path, **options)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"soft_min_snr": True}, "add snr_gamma"),
        ({"debiased_estimation": True, "snr_gamma": 5}, "both weigh the loss"),
        ({"min_timestep": 50, "max_timestep": 50}, "max_timestep is 50, not above min_timestep, 50"),
        ({"huber_delta": 1, "huber_c": 1}, "huber_delta and huber_c are two names of one setting"),
    ],
)
def test_settings_that_do_not_agree_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_values(values)
