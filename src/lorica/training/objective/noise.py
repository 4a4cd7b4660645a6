"""Noise of a sample: plain, with an offset, at several resolutions, perturbed; its timestep; zero terminal SNR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lorica.errors import ConfigError
from lorica.training.config.objective import ObjectiveSettings


def draw_noise(shape: Sequence[int], settings: ObjectiveSettings, generator: torch.Generator) -> Tensor:
    """Draw the noise of one sample ``(c, h, w)`` that the model is to predict, before any perturbation."""
    noise = torch.randn(shape, generator=generator)
    if settings.noise_offset:
        noise = add_offset(noise, settings.noise_offset, generator)
    if settings.pyramid_noise_levels:
        noise = add_pyramid(noise, settings.pyramid_noise_levels, settings.pyramid_noise_discount, generator)
    return noise


def add_offset(noise: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """``noise + strength * z``, one normal ``z`` for all pixels of a channel, ``(c, h, w)``.

    A model learns pictures much darker or brighter than the mean by it (Guttenberg 2023, "Diffusion with offset
    noise", crosslabs.org).
    """
    return noise + strength * torch.randn(noise.shape[0], 1, 1, generator=generator)


def add_pyramid(noise: Tensor, levels: int, discount: float, generator: torch.Generator) -> Tensor:
    """``e / std(e)`` with ``e = noise + sum over i < levels of discount^i * U(z_i)``.

    ``z_i`` is normal noise of ``h / r_i^i`` by ``w / r_i^i`` cells, rounded down but at least 1, ``r_i`` drawn from 2
    to 4; ``U`` enlarges it bilinearly. The level that is one cell wide or high is the last. (Whitaker 2023,
    "Multi-resolution noise for diffusion model training", Weights & Biases reports. Its level 0 is a second full-size
    noise, kept here so that ``discount`` means the same. The standard deviation is that of this sample, ``(c, h, w)``.)
    """
    height, width = noise.shape[1:]
    total = noise
    for level in range(levels):
        ratio = (2 + 2 * float(torch.rand((), generator=generator))) ** level
        cells = max(1, int(height / ratio)), max(1, int(width / ratio))
        coarse = torch.randn(1, noise.shape[0], *cells, generator=generator)
        total = total + discount**level * F.interpolate(coarse, size=(height, width), mode="bilinear")[0]
        if 1 in cells:
            break
    return total / total.std()


def perturb(noise: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """``noise + strength * z``, mixed with the latents while ``noise`` stays the target.

    Training then resembles sampling, where the input is never exact (Ning et al. 2023, arXiv:2301.11706; 0.1 advised).
    """
    return noise + strength * torch.randn(noise.shape, generator=generator)


def draw_timesteps(
    count: int, generator: torch.Generator, *, steps: int, least: int = 0, most: int | None = None
) -> Tensor:
    """Draw ``count`` timesteps, each of ``least <= t < most`` equally likely, ``(b,)``; None stands for ``steps``.

    Raises:
        ConfigError: if the limits are not within ``0 <= least < most <= steps``.
    """
    end = steps if most is None else most
    if not 0 <= least < end <= steps:
        raise ConfigError(
            f"timesteps from {least} to below {end} were asked for; expected limits within 0 to {steps}, least first."
        )
    return torch.randint(least, end, (count,), generator=generator)


def to_zero_terminal_snr(kept: Tensor) -> Tensor:
    """The schedule with nothing but noise at its last step (Lin et al. 2023, arXiv:2305.08891, algorithm 1).

    ``sqrt(kept)`` is shifted so that its last value is 0 and stretched so that its first stays:
    ``(sqrt(kept_t) - sqrt(kept_T)) * sqrt(kept_1) / (sqrt(kept_1) - sqrt(kept_T))``, squared.

    Args:
        kept: the share of the picture's variance that is left at each step, falling (``alphas_cumprod``).
    """
    signal = kept.sqrt()
    first, last = signal[0], signal[-1]
    return ((signal - last) * (first / (first - last))).square()


def check_predicted(prediction_type: str) -> None:
    """Refuse zero terminal SNR for a model that predicts noise: where all is noise, the answer tells nothing.

    Raises:
        ConfigError: unless velocities are predicted (Lin et al. 2023, arXiv:2305.08891, section 3.2).
    """
    if prediction_type != "v_prediction":
        raise ConfigError(
            f"zero terminal SNR needs a model that predicts v_prediction, but this one predicts {prediction_type}: "
            "leave out rescale_zero_terminal_snr, or set prediction_type to v_prediction."
        )
