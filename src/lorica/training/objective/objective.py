"""From the settings of a run to what its steps lessen."""

from __future__ import annotations

from lorica.training.config.config import RunConfig
from lorica.training.objective.losses import Objective
from lorica.training.objective.noise import NoiseSettings
from lorica.training.recipes.recipe import Weighting


def objective_of(config: RunConfig) -> Objective:
    """Return how samples are noised and compared."""
    noise = NoiseSettings(
        offset=config.noise_offset,
        pyramid_levels=config.pyramid_noise_levels,
        pyramid_discount=config.pyramid_noise_discount,
        perturbation=config.input_perturbation,
    )
    return Objective(
        noise=noise,
        distance=config.loss_type,
        delta=config.huber_delta,
        unmasked=config.unmasked_weight,
        scheduled=config.huber_schedule == "snr",
    )


def weighting_of(config: RunConfig) -> Weighting | None:
    """Return how the loss counts at each noise level, or None for equally."""
    if config.debiased_estimation:
        return Weighting("debiased")
    if config.snr_gamma is None:
        return None
    return Weighting("soft_min_snr" if config.soft_min_snr else "min_snr", config.snr_gamma)
