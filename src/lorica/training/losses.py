"""How far a prediction is from its target."""

from __future__ import annotations

import torch
from torch import Tensor

from lorica.training.recipe import Conditioning, Recipe


def sample_losses(recipe: Recipe, latents: Tensor, noise: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    """Noise one batch, predict, compare. Returns one loss a sample, ``(b,)``."""
    noisy, target = recipe.corrupt(latents, noise, time)
    losses = mean_squares(recipe.predict(noisy, time, conditioning), target)
    weights = recipe.weigh(time)
    return losses if weights is None else losses * weights


def mean_squares(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of each sample: ``(b, ...)`` to ``(b,)``."""
    return (predicted - target).square().flatten(1).mean(1)


def min_snr_weights(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Return ``min(snr, gamma) / snr``, over ``snr + 1`` for velocities (Hang et al. 2023, arXiv:2303.09556, eq. 8)."""
    divisor = snr + 1 if prediction_type == "v_prediction" else snr
    return torch.minimum(snr, torch.full_like(snr, gamma)) / divisor
