"""Settings of the objective: prediction, loss, its weights, and the noise."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lorica.training.config.settings import StrictSettings


class ObjectiveSettings(StrictSettings):
    """The loss and the noise."""

    prediction_type: Literal["epsilon", "v_prediction"] | None = Field(
        None, description="prediction of the model; that of its scheduler if unset"
    )
    rescale_zero_terminal_snr: bool = Field(
        False,
        validation_alias="zero_terminal_snr",
        description="end the noise schedule in pure noise (arXiv:2305.08891); for v_prediction",
    )
    loss_type: Literal["mse", "huber", "smooth_l1", "pseudo_huber"] = Field(
        "mse", description="distance between prediction and target"
    )
    huber_delta: float = Field(
        0.1, gt=0, validation_alias="huber_c", description="error from which the losses other than mse are linear"
    )
    huber_schedule: Literal["constant", "snr"] = Field(
        "constant", description="snr: huber_delta at most noise, rising to 1 at none (arXiv:2403.16728)"
    )
    snr_gamma: float | None = Field(
        None, gt=0, validation_alias="min_snr_gamma", description="min-SNR weighting (arXiv:2303.09556), 5 recommended"
    )
    soft_min_snr: bool = Field(False, description="snr_gamma without its corner (arXiv:2401.11605)")
    debiased_estimation: bool = Field(
        False,
        validation_alias="debiased_estimation_loss",
        description="weight by the square root of the SNR instead (arXiv:2310.08442)",
    )
    min_timestep: int = Field(0, ge=0, description="lowest timestep that is trained; 0 is the clean picture")
    max_timestep: int | None = Field(None, gt=0, description="timesteps from it on are not trained; all are if unset")

    # the noise
    noise_offset: float = Field(0.0, ge=0, description="noise shared by all pixels of a channel, 0.1 for dark pictures")
    pyramid_noise_levels: int = Field(
        0,
        ge=0,
        le=32,
        validation_alias="multires_noise_iterations",
        description="coarser noises that are added, 6 is usual; 0 for none",
    )
    pyramid_noise_discount: float = Field(
        0.3,
        ge=0,
        validation_alias="multires_noise_discount",
        description="weight of each of them relative to the one before",
    )
    input_perturbation: float = Field(
        0.0,
        ge=0,
        validation_alias="ip_noise_gamma",
        description="more noise in the input than in the target (arXiv:2301.11706), 0.1 recommended",
    )

    @model_validator(mode="after")
    def _agree_on_the_loss(self) -> ObjectiveSettings:
        if self.huber_schedule == "snr" and self.huber_delta > 1:
            raise ValueError(f"huber_schedule lets huber_delta rise to 1, got {self.huber_delta:g}: give at most 1")
        if self.debiased_estimation and self.snr_gamma is not None:
            raise ValueError("debiased_estimation and snr_gamma both weigh the loss: leave one out")
        if self.max_timestep is not None and self.max_timestep <= self.min_timestep:
            raise ValueError(f"max_timestep is {self.max_timestep}, not above min_timestep, {self.min_timestep}")
        return self
