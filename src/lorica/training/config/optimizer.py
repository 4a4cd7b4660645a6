"""Settings of the steps: how many, how large, and the optimizer that takes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from lorica.training.config.settings import StrictSettings

LearningRates = Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"]

LEAST_FACTOR = 0.01  # of the rate that prodigy finds; rates of other optimizers are below it


class StepSettings(StrictSettings):
    """How long a run is and how much it takes at once."""

    train_batch_size: int = Field(16, gt=0, le=65536, description="samples at once on each device")
    gradient_accumulation_steps: int = Field(1, gt=0, le=65536, description="batches that make one step")
    num_train_epochs: int = Field(
        100,
        gt=0,
        validation_alias="max_train_epochs",
        description="passes over the pictures, if max_train_steps is unset",
    )
    max_train_steps: int | None = Field(None, gt=0, description="steps of the optimizer")


class OptimizerSettings(StrictSettings):
    """The optimizer, its learning rates and the running mean."""

    learning_rate: float = Field(1e-4, gt=0, description="learning rate of the adapter; of prodigy it is a factor, 1")
    text_encoder_lr: float | None = Field(None, gt=0, description="that of the text encoder; learning_rate if unset")
    learning_rate_pattern: tuple[str, ...] = Field((), description="GLOB=RATE of single layers, such as *.attn2.*=5e-5")
    lora_plus_ratio: float | None = Field(
        None,
        gt=0,
        validation_alias="loraplus_lr_ratio",
        description="rate of the up factors over that of the down factors (arXiv:2402.12354), 16 recommended",
    )
    scale_lr: bool = Field(False, description="multiply the rates by accumulation, batch size and processes")
    lr_scheduler: LearningRates = Field("constant", description="schedule of the learning rate")
    lr_warmup_steps: float = Field(
        0, ge=0, description="steps of rising rate, or below 1 their share of the run (scripts: 500)"
    )
    lr_num_cycles: int = Field(
        1, gt=0, validation_alias="lr_scheduler_num_cycles", description="restarts of cosine_with_restarts"
    )
    lr_power: float = Field(1.0, gt=0, validation_alias="lr_scheduler_power", description="exponent of polynomial")
    optimizer: str = Field(
        "adamw",
        validation_alias="optimizer_type",
        description="adamw, adamw8bit, prodigy (learning_rate 1), adafactor, or a class such as torch.optim.NAdam",
    )
    use_8bit_adam: bool = Field(False, description="the same as --optimizer adamw8bit")
    optimizer_args: tuple[str, ...] = Field((), description="NAME=VALUE passed to the optimizer")
    use_ema: bool = Field(False, description="write the running mean of the adapter over the steps")
    ema_decay: float = Field(0.9999, gt=0, lt=1, description="share of the mean that stays at a step, rising at first")
    max_grad_norm: float = Field(1.0, gt=0, description="norm to which gradients are clipped")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Adam: decay of the mean gradient")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Adam: decay of the mean squared gradient")
    adam_weight_decay: float = Field(1e-2, ge=0, description="Adam: weight decay")
    adam_epsilon: float = Field(1e-8, gt=0, description="Adam: added to the denominator")

    @model_validator(mode="before")
    @classmethod
    def _name_the_optimizer(cls, values: dict[str, Any]) -> dict[str, Any]:
        """``use_8bit_adam`` is another spelling of ``optimizer = "adamw8bit"``."""
        named = next((values[name] for name in ("optimizer", "optimizer_type") if name in values), None)
        if str(named).lower() == "prodigy":  # it finds the rate itself, and multiplies it by this
            values = {"learning_rate": 1.0, **values}
        if str(values.get("use_8bit_adam", False)).lower() != "true":
            return values
        if named is not None and str(named).lower() not in ("adamw", "adamw8bit"):
            raise ValueError(f"use_8bit_adam and optimizer={named} are two optimizers: leave one out")
        return {**{name: value for name, value in values.items() if name != "optimizer_type"}, "optimizer": "adamw8bit"}

    @model_validator(mode="after")
    def _agree_on_rates(self) -> OptimizerSettings:
        if self.text_encoder_lr is not None and self.optimizer.lower() == "prodigy":
            raise ValueError("prodigy finds one rate for all: leave out text_encoder_lr")
        if self.optimizer.lower() == "prodigy" and self.learning_rate < LEAST_FACTOR:
            raise ValueError(
                f"prodigy finds its rate and multiplies it by learning_rate, so {self.learning_rate:g} learns nothing: "
                "give 1, or leave it out"
            )
        if self.lr_warmup_steps >= 1 and self.lr_warmup_steps != int(self.lr_warmup_steps):
            raise ValueError(
                "lr_warmup_steps is a whole number of steps, or below 1 a share of the run, "
                f"got {self.lr_warmup_steps:g}"
            )
        return self
