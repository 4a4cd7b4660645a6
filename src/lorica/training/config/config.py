"""What one training run is told: one frozen model for the run file, the command line and the web form.

Names and defaults are those of the diffusers text-to-image LoRA script. Where a default differs, the field says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field, model_validator

from lorica.errors import ConfigError
from lorica.training.config.inputs import InputSettings
from lorica.training.config.settings import second_names
from lorica.training.config.toml import read_toml, toml_line, toml_tables

Schedule = Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"]


class RunConfig(InputSettings):
    """One training run. Unknown names are refused with the nearest known one.

    Raises:
        ConfigError: for an unknown name, a value out of range, or settings that contradict each other.
    """

    # how long, how much at once
    train_batch_size: int = Field(16, gt=0, description="samples at once on each device")
    gradient_accumulation_steps: int = Field(1, gt=0, description="batches that make one step")
    num_train_epochs: int = Field(100, gt=0, description="passes over the pictures, if max_train_steps is unset")
    max_train_steps: int | None = Field(None, gt=0, description="steps of the optimizer")
    gradient_checkpointing: bool = Field(False, description="less memory, 1.35 to 1.7 times the time")
    remember_less: bool = Field(
        False, description="about half the memory of a step, some percent more time, same result"
    )

    # the optimizer
    learning_rate: float = Field(1e-4, gt=0, description="learning rate")
    text_encoder_lr: float | None = Field(None, gt=0, description="that of the text encoder; learning_rate if unset")
    learning_rate_pattern: tuple[str, ...] = Field((), description="GLOB=RATE of single layers, such as *.attn2.*=5e-5")
    lora_plus_ratio: float | None = Field(
        None,
        gt=0,
        validation_alias=AliasChoices("lora_plus_ratio", "loraplus_lr_ratio"),
        description="rate of the up factors over that of the down factors (arXiv:2402.12354), 16 recommended",
    )
    scale_lr: bool = Field(False, description="multiply the rates by accumulation, batch size and processes")
    lr_scheduler: Schedule = Field("constant", description="schedule of the learning rate")
    lr_warmup_steps: int = Field(0, ge=0, description="steps of rising rate (scripts: 500)")
    lr_num_cycles: int = Field(1, gt=0, description="restarts of cosine_with_restarts")
    lr_power: float = Field(1.0, gt=0, description="exponent of polynomial")
    optimizer: str = Field(
        "adamw",
        validation_alias=AliasChoices("optimizer", "optimizer_type"),
        description="adamw, adamw8bit, prodigy (learning_rate 1), adafactor, or a class such as torch.optim.NAdam",
    )
    use_8bit_adam: bool = Field(False, description="the same as --optimizer adamw8bit")
    optimizer_args: tuple[str, ...] = Field((), description="NAME=VALUE handed to the optimizer")
    use_ema: bool = Field(False, description="write the running mean of the adapter over the steps")
    ema_decay: float = Field(0.9999, gt=0, lt=1, description="how much of the mean stays at a step, rising at first")
    max_grad_norm: float = Field(1.0, gt=0, description="longest gradient that a step applies")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Adam: memory of the gradient")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Adam: memory of the squared gradient")
    adam_weight_decay: float = Field(1e-2, ge=0, description="Adam: pull to zero")
    adam_epsilon: float = Field(1e-8, gt=0, description="Adam: added to the denominator")

    # the loss
    prediction_type: Literal["epsilon", "v_prediction"] | None = Field(
        None, description="what the model predicts; from its scheduler if unset"
    )
    rescale_zero_terminal_snr: bool = Field(
        False,
        validation_alias=AliasChoices("rescale_zero_terminal_snr", "zero_terminal_snr"),
        description="end the noise schedule in nothing but noise (arXiv:2305.08891); for v_prediction",
    )
    loss_type: Literal["mse", "huber", "smooth_l1", "pseudo_huber"] = Field(
        "mse", description="distance between prediction and target"
    )
    huber_delta: float = Field(
        0.1,
        gt=0,
        validation_alias=AliasChoices("huber_delta", "huber_c"),
        description="error from which the losses other than mse grow straight",
    )
    huber_schedule: Literal["constant", "snr"] = Field(
        "constant", description="snr: huber_delta at most noise, rising to 1 at none (arXiv:2403.16728)"
    )
    snr_gamma: float | None = Field(
        None,
        gt=0,
        validation_alias=AliasChoices("snr_gamma", "min_snr_gamma"),
        description="min-SNR weighting (arXiv:2303.09556), 5 recommended",
    )
    soft_min_snr: bool = Field(False, description="snr_gamma without its corner (arXiv:2401.11605)")
    debiased_estimation: bool = Field(
        False,
        validation_alias=AliasChoices("debiased_estimation", "debiased_estimation_loss"),
        description="weight by the square root of the SNR instead (arXiv:2310.08442)",
    )
    min_timestep: int = Field(0, ge=0, description="no timestep below it is trained; 0 is the clean picture")
    max_timestep: int | None = Field(None, gt=0, description="none from it on is trained; all if unset")

    # the noise
    noise_offset: float = Field(0.0, ge=0, description="noise shared by all pixels of a channel, 0.1 for dark pictures")
    pyramid_noise_levels: int = Field(
        0,
        ge=0,
        validation_alias=AliasChoices("pyramid_noise_levels", "multires_noise_iterations"),
        description="coarser noises that are added, 6 is usual; 0 for none",
    )
    pyramid_noise_discount: float = Field(
        0.3,
        ge=0,
        validation_alias=AliasChoices("pyramid_noise_discount", "multires_noise_discount"),
        description="how much each of them counts of the one before",
    )
    input_perturbation: float = Field(
        0.0,
        ge=0,
        validation_alias=AliasChoices("input_perturbation", "ip_noise_gamma"),
        description="more noise in the input than in the target (arXiv:2301.11706), 0.1 recommended",
    )

    # the adapter
    rank: int = Field(4, gt=0, description="rank of the adapter")
    alpha: float | None = Field(
        None, gt=0, validation_alias=AliasChoices("alpha", "lora_alpha"), description="strength is alpha / rank"
    )
    rank_pattern: tuple[str, ...] = Field((), description="GLOB=RANK of single layers, such as *.attn2.*=8")
    alpha_pattern: tuple[str, ...] = Field((), description="GLOB=ALPHA of single layers; else alpha, else their rank")
    init_lora_weights: Literal["gaussian", "zero", "orthogonal", "pissa"] = Field(
        "gaussian",
        description="first values of the factors; pissa (arXiv:2404.02948) doubles the rank of the file",
    )
    scale_weight_norms: float | None = Field(None, gt=0, description="longest change of a layer, 1 is usual")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="share of the adapter's inputs that are dropped")
    lora_dropout_pattern: tuple[str, ...] = Field((), description="GLOB=SHARE of single layers, 0 for none")
    target_modules: tuple[str, ...] = Field(
        ("attention",), description="attention, attention+ff, all-linear, all, or globs on module paths"
    )
    train_text_encoder: bool = Field(False, description="also adapt the text encoder")
    base_precision: Literal["fp32", "bf16", "fp16", "int8", "nf4"] | None = Field(
        None, description="how the base is kept; that of mixed_precision if unset. int8 needs torchao, nf4 bitsandbytes"
    )
    mixed_precision: Literal["no", "fp16", "bf16"] | None = Field(
        None, description="precision that a step computes in; the adapter is always fp32"
    )
    enable_xformers_memory_efficient_attention: bool = Field(
        False, description="attention of xformers on a GPU; torch's own, which is the default, does the same"
    )
    allow_tf32: bool = Field(False, description="faster, coarser matrix products on Ampere GPUs and later")

    # what is written
    output_dir: Path = Field(Path("trained-lora"), description="where everything is written")
    overwrite_output_dir: bool = Field(False, description="delete the checkpoints and previews of an earlier run there")
    seed: int = Field(0, ge=0, description="everything random is a function of it and the step (scripts: none)")
    checkpointing_steps: int = Field(500, gt=0, description="steps between checkpoints")
    checkpoints_total_limit: int | None = Field(None, gt=0, description="checkpoints kept; the oldest go first")
    resume_from_checkpoint: str | None = Field(None, description="latest, or the path of a checkpoint")
    validation_prompt: str | None = Field(None, description="prompt of the preview pictures")
    num_validation_images: int = Field(4, ge=0, description="preview pictures each time; 0 for none")
    validation_epochs: int | None = Field(None, gt=0, description="epochs between previews (scripts: 1)")
    validation_steps: int | None = Field(None, gt=0, description="steps between previews; at checkpoints if unset")
    validation_num_inference_steps: int = Field(25, gt=0, description="denoising steps of a preview")
    validation_guidance_scale: float = Field(5.0, ge=0, description="guidance of a preview")
    validation_split: float | None = Field(None, gt=0, lt=1, description="share of pictures to measure the loss on")
    validation_data_dir: Path | None = Field(None, description="folder of other pictures to measure the loss on")
    validation_loss_steps: int | None = Field(
        None,
        gt=0,
        validation_alias=AliasChoices("validation_loss_steps", "validate_every_n_steps"),
        description="steps between measurements; at checkpoints if unset",
    )
    validation_loss_levels: int = Field(4, gt=0, description="noise levels of each picture, the same every time")
    report_to: str | None = Field(None, description="tracker of accelerate, such as tensorboard (the scripts' default)")
    logging_dir: Path = Field(Path("logs"), description="the tracker's folder, inside output_dir")
    push_to_hub: bool = Field(False, description="upload the result to the Hub at the end")
    hub_model_id: str | None = Field(None, description="its name there, user/name; that of output_dir if unset")
    pre_compute_text_embeddings: bool = Field(False, description="changes nothing: always on where captions allow it")
    upcast_before_saving: bool = Field(False, description="changes nothing: the adapter is always fp32")
    local_rank: int = Field(-1, description="ignored: accelerate launch tells each process its number")

    @model_validator(mode="before")
    @classmethod
    def _name_the_optimizer(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Let ``use_8bit_adam`` stand for the name of the optimizer."""
        named = next((values[name] for name in ("optimizer", "optimizer_type") if name in values), None)
        if str(values.get("use_8bit_adam", False)).lower() != "true":
            return values
        if named is not None and str(named).lower() not in ("adamw", "adamw8bit"):
            raise ValueError(f"use_8bit_adam and optimizer={named} are two optimizers: leave one out")
        return {**{name: value for name, value in values.items() if name != "optimizer_type"}, "optimizer": "adamw8bit"}

    @model_validator(mode="after")
    def _agree_on_the_base(self) -> RunConfig:
        if self.base_precision in ("int8", "nf4") and self.init_lora_weights == "pissa":
            raise ValueError(f"pissa splits the weights of the base, which {self.base_precision} packs: leave one out")
        return self

    @model_validator(mode="after")
    def _agree_on_validation(self) -> RunConfig:
        told = [name for name in ("validation_split", "validation_data_dir") if getattr(self, name) is not None]
        if len(told) == 2:
            raise ValueError("validation_split and validation_data_dir are both set: leave one out")
        if self.validation_loss_steps is not None and not told:
            raise ValueError(
                "validation_loss_steps is set, but nothing is held out: add validation_split or validation_data_dir"
            )
        return self

    @model_validator(mode="after")
    def _agree(self) -> RunConfig:
        if self.text_encoder_lr is not None and not self.train_text_encoder:
            raise ValueError("text_encoder_lr is set, but the text encoder is not trained: add train_text_encoder")
        if self.text_encoder_lr is not None and self.optimizer.lower() == "prodigy":
            raise ValueError("prodigy finds one rate for all: leave out text_encoder_lr")
        if self.validation_epochs is not None and self.validation_steps is not None:
            raise ValueError("validation_epochs and validation_steps are both set: leave one out")
        if self.scale_weight_norms is not None and self.init_lora_weights == "pissa":
            raise ValueError("scale_weight_norms would shrink what pissa takes from the base: leave one out")
        if self.hub_model_id is not None and not self.push_to_hub:
            raise ValueError("hub_model_id is set, but nothing is uploaded: add push_to_hub")
        return self

    @model_validator(mode="after")
    def _agree_on_the_loss(self) -> RunConfig:
        if self.soft_min_snr and self.snr_gamma is None:
            raise ValueError("soft_min_snr is set, but not where it levels off: add snr_gamma, such as 5")
        if self.huber_schedule == "snr" and self.loss_type == "mse":
            raise ValueError("huber_schedule is set, but mse has no such corner: add loss_type")
        if self.huber_schedule == "snr" and self.huber_delta > 1:
            raise ValueError(f"huber_schedule lets huber_delta rise to 1, got {self.huber_delta:g}: give at most 1")
        if self.debiased_estimation and self.snr_gamma is not None:
            raise ValueError("debiased_estimation and snr_gamma both weigh the loss: leave one out")
        if self.max_timestep is not None and self.max_timestep <= self.min_timestep:
            raise ValueError(f"max_timestep is {self.max_timestep}, not above min_timestep, {self.min_timestep}")
        return self

    @classmethod
    def from_toml(cls, path: str | Path) -> RunConfig:
        """Read a run file: one ``name = value`` a line, names as on the command line.

        Raises:
            FileError: if the file cannot be read.
            ConfigError: if it is not TOML or holds a setting that is unknown or wrong.
        """
        return cls.from_values(read_toml(Path(path)), f"in {path}: ")

    @classmethod
    def from_values(cls, values: Mapping[str, Any], where: str = "") -> RunConfig:
        """Validate settings by name; dashes count as underscores, and errors begin with ``where``."""
        try:
            return cls(**{name.replace("-", "_"): value for name, value in values.items()})
        except ConfigError as error:
            raise ConfigError(f"{where}{error}") from None

    def to_toml(self) -> str:
        """Return the run file of this run, complete with defaults; unset values are comments."""
        values = self.model_dump(mode="json")
        sets = values.pop("datasets")
        return "".join(toml_line(name, value) for name, value in values.items()) + toml_tables("datasets", sets)


def known_names() -> list[str]:
    """Return every name that a run file may hold, aliases included."""
    return [*RunConfig.model_fields, *second_names(RunConfig)]
