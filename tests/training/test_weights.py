"""Every weighting written out entry by entry, in both forms."""

from __future__ import annotations

import math

import pytest
import torch

from lorica.errors import UnknownNameError
from lorica.training.objective.weights import RULES, loss_weights

SNR = torch.tensor([0.04, 1.0, 4.0, 25.0, 400.0], dtype=torch.float64)
GAMMA = 5.0
FORMULAS = {
    "min_snr": [0.04, 1.0, 4.0, 5.0, 5.0],
    "soft_min_snr": [1 / (1 / 0.04 + 0.2), 1 / 1.2, 1 / 0.45, 1 / 0.24, 1 / 0.2025],  # 1 / (sigma^2 + 1 / gamma)
    "debiased": [0.2, 1.0, 2.0, 5.0, 20.0],
}


def test_every_rule_is_written_out_here() -> None:
    assert FORMULAS.keys() == RULES.keys()


@pytest.mark.parametrize("rule", FORMULAS)
def test_for_noise_the_weight_is_that_of_the_picture_over_snr(rule: str) -> None:
    expected = [weight / snr for weight, snr in zip(FORMULAS[rule], SNR.tolist(), strict=True)]
    assert loss_weights(SNR, rule, "epsilon", GAMMA).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rule", FORMULAS)
def test_for_velocities_it_is_that_over_snr_plus_one(rule: str) -> None:
    expected = [weight / (snr + 1) for weight, snr in zip(FORMULAS[rule], SNR.tolist(), strict=True)]
    assert loss_weights(SNR, rule, "v_prediction", GAMMA).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_published_forms_for_noise() -> None:
    assert loss_weights(SNR, "min_snr", "epsilon", GAMMA).tolist() == pytest.approx([1, 1, 1, 0.2, 0.0125])
    assert loss_weights(SNR, "debiased", "epsilon").tolist() == pytest.approx([5, 1, 0.5, 0.2, 0.05])


def test_another_gamma_levels_off_elsewhere() -> None:
    assert loss_weights(SNR, "min_snr", "epsilon", 2.0).tolist() == pytest.approx([1, 1, 0.5, 0.08, 0.005])
    soft = loss_weights(SNR, "soft_min_snr", "epsilon", 2.0).tolist()
    assert soft == pytest.approx([2 / 2.04, 2 / 3, 2 / 6, 2 / 27, 2 / 402])


@pytest.mark.parametrize("rule", FORMULAS)
def test_both_kinds_of_models_are_trained_alike(rule: str) -> None:
    """One error in the picture gives one weighted loss, whatever the model predicts."""
    picture, wrong, noise = (torch.randn(6, dtype=torch.float64) for _ in range(3))
    for snr in SNR.tolist():
        signal, spread = math.sqrt(snr / (snr + 1)), math.sqrt(1 / (snr + 1))
        noisy = signal * picture + spread * noise
        guessed = (noisy - signal * wrong) / spread  # the noise that goes with the wrong picture
        losses = {
            "epsilon": (guessed - noise).square().mean(),
            "v_prediction": (signal * guessed - spread * wrong - signal * noise + spread * picture).square().mean(),
        }
        weighted = [loss * loss_weights(torch.tensor([snr]).double(), rule, kind) for kind, loss in losses.items()]
        torch.testing.assert_close(weighted[0], weighted[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", FORMULAS)
def test_zero_snr_gives_no_nan(rule: str, dtype: torch.dtype) -> None:
    nothing = torch.zeros(1, dtype=dtype)
    assert loss_weights(nothing, rule, "v_prediction").item() == pytest.approx(0, abs=1e-18)
    if rule != "debiased":
        assert loss_weights(nothing, rule, "epsilon").item() == pytest.approx(1)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown loss weighting 'min_snt'\. Did you mean 'min_snr'"):
        loss_weights(SNR, "min_snt", "epsilon")
    with pytest.raises(UnknownNameError, match=r"unknown prediction type 'epsilom'\. Did you mean 'epsilon'"):
        loss_weights(SNR, "min_snr", "epsilom")
