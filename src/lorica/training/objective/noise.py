"""The noise that a sample gets: plain, with an offset, at several resolutions, perturbed; and its timestep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lorica.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSettings:
    """What is done to noise, in this order; the defaults do nothing.

    Args:
        offset: see :func:`add_offset`.
        pyramid_levels: see :func:`add_pyramid`; 0 for none.
        pyramid_discount: likewise.
        perturbation: see :func:`perturb`.
    """

    offset: float = 0.0
    pyramid_levels: int = 0
    pyramid_discount: float = 0.3
    perturbation: float = 0.0

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        for name in ("offset", "pyramid_levels", "pyramid_discount", "perturbation"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} of the noise is {getattr(self, name)}; expected 0 or more.")


def draw_noise(shape: Sequence[int], settings: NoiseSettings, generator: torch.Generator) -> Tensor:
    """Draw the noise of one sample ``(c, h, w)``: what the model is to find again, before any perturbation."""
    noise = torch.randn(shape, generator=generator)
    if settings.offset:
        noise = add_offset(noise, settings.offset, generator)
    if settings.pyramid_levels:
        noise = add_pyramid(noise, settings.pyramid_levels, settings.pyramid_discount, generator)
    return noise


def add_offset(noise: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Return ``noise + strength * z``, one normal ``z`` for all pixels of a channel, ``(c, h, w)``.

    Lets a model learn pictures much darker or brighter than the mean (Guttenberg 2023, "Diffusion with offset noise",
    crosslabs.org).
    """
    return noise + strength * torch.randn(noise.shape[0], 1, 1, generator=generator)


def add_pyramid(noise: Tensor, levels: int, discount: float, generator: torch.Generator) -> Tensor:
    """Return ``e / std(e)`` with ``e = noise + sum over i < levels of discount^i * U(z_i)``.

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
    """Return ``noise + strength * z``: what the latents are mixed with, while ``noise`` stays the target.

    Likens training to sampling, where the input is never exact (Ning et al. 2023, arXiv:2301.11706; 0.1 advised).
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
