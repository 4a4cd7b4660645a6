"""Noise schedules that end in nothing but noise (Lin et al. 2023, arXiv:2305.08891)."""

from __future__ import annotations

import torch
from torch import Tensor

from lorica.errors import ConfigError


def to_zero_terminal_snr(kept: Tensor) -> Tensor:
    """Return a schedule whose last step keeps nothing of the picture: algorithm 1 of the paper.

    ``sqrt(kept)`` is shifted so that its last value is 0 and stretched so that its first stays:
    ``(sqrt(kept_t) - sqrt(kept_T)) * sqrt(kept_1) / (sqrt(kept_1) - sqrt(kept_T))``, squared.

    Args:
        kept: the share of the picture's variance that is left at each step, falling (``alphas_cumprod``).
    """
    signal = kept.sqrt()
    first, last = signal[0], signal[-1]
    return ((signal - last) * (first / (first - last))).square()


def rescale_betas(betas: Tensor) -> Tensor:
    """Return the betas of the schedule with zero terminal SNR, of which the last is 1."""
    kept = to_zero_terminal_snr((1 - betas).cumprod(0))
    return 1 - torch.cat([kept[:1], kept[1:] / kept[:-1]])


def check_predicted(prediction_type: str) -> None:
    """Refuse to predict noise where there is nothing but noise: the picture could not be told from the answer.

    Raises:
        ConfigError: unless velocities are predicted (section 3.2 of the paper).
    """
    if prediction_type != "v_prediction":
        raise ConfigError(
            f"zero terminal SNR needs a model that predicts v_prediction, but this one predicts {prediction_type}: "
            "leave out rescale_zero_terminal_snr, or set prediction_type to v_prediction."
        )
