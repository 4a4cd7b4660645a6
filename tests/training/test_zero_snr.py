"""The rescaled schedule ends in noise alone, begins as before, and is that of diffusers."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from lorica.errors import ConfigError
from lorica.training.objective.noise import check_predicted, to_zero_terminal_snr

FP64_NOISE = 1e-9
BETAS = {
    "scaled linear": torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2,
    "linear": torch.linspace(1e-4, 0.02, 250),
}


def test_the_algorithm_written_out() -> None:
    kept = torch.tensor([0.81, 0.36, 0.09], dtype=torch.float64)  # square roots 0.9, 0.6, 0.3
    assert to_zero_terminal_snr(kept).tolist() == pytest.approx([0.81, 0.2025, 0.0])  # 0.9, 0.3 * 0.9 / 0.6, 0


@pytest.mark.parametrize("name", BETAS)
def test_it_ends_in_nothing_and_begins_as_before(name: str) -> None:
    before = (1 - BETAS[name].double()).cumprod(0)
    after = to_zero_terminal_snr(before)
    assert after[-1].item() == 0
    assert after[0].item() == pytest.approx(before[0].item(), rel=1e-12)
    assert (after.diff() < 0).all()
    assert (after[1:] < before[1:]).all()


@pytest.mark.parametrize("name", BETAS)
def test_it_is_that_of_the_betas_of_diffusers(name: str) -> None:
    ours = to_zero_terminal_snr((1 - BETAS[name].double()).cumprod(0))
    theirs = (1 - rescale_zero_terminal_snr(BETAS[name].double())).cumprod(0)
    torch.testing.assert_close(ours, theirs, atol=FP64_NOISE, rtol=FP64_NOISE)


def test_the_schedule_is_that_of_a_diffusers_scheduler() -> None:
    settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    plain = DDPMScheduler(**settings).alphas_cumprod
    theirs = DDPMScheduler(**settings, rescale_betas_zero_snr=True).alphas_cumprod
    torch.testing.assert_close(to_zero_terminal_snr(plain.double()).float(), theirs, atol=2e-6, rtol=1e-4)


def test_predicting_noise_from_noise_is_refused() -> None:
    check_predicted("v_prediction")
    with pytest.raises(ConfigError, match="this one predicts epsilon: leave out rescale_zero_terminal_snr"):
        check_predicted("epsilon")
