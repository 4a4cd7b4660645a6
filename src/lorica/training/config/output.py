"""Settings of the validation loss, and of everything that a run writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from lorica.run_files import STATE
from lorica.training.config.settings import StrictSettings

CHECKPOINTING = 500  # steps between checkpoints


class ValidationSettings(StrictSettings):
    """Pictures that are not trained on, and when the loss on them is measured."""

    validation_split: float | None = Field(None, gt=0, lt=1, description="share of pictures to measure the loss on")
    validation_data_dir: Path | None = Field(None, description="folder of other pictures to measure the loss on")
    validation_loss_steps: int | None = Field(
        None,
        gt=0,
        validation_alias="validate_every_n_steps",
        description="steps between measurements; at checkpoints if unset",
    )
    validation_loss_levels: int = Field(
        4, gt=0, le=1000, description="noise levels of each picture, the same every time"
    )

    @model_validator(mode="after")
    def _agree_on_validation(self) -> ValidationSettings:
        given = [name for name in ("validation_split", "validation_data_dir") if getattr(self, name) is not None]
        if len(given) == 2:
            raise ValueError("validation_split and validation_data_dir are both set: leave one out")
        return self


class OutputSettings(StrictSettings):
    """The output folder: checkpoints, previews, trackers, upload."""

    output_dir: Path = Field(Path("trained-lora"), description="where everything is written")
    overwrite_output_dir: bool = Field(False, description="delete the checkpoints and previews of an earlier run there")
    save_model_as: str = Field("pytorch_lora_weights.safetensors", min_length=1, description="name of its file")
    checkpointing_steps: int = Field(
        CHECKPOINTING, gt=0, validation_alias="save_every_n_steps", description="steps between checkpoints"
    )
    checkpointing_epochs: int | None = Field(
        None, gt=0, validation_alias="save_every_n_epochs", description="epochs between checkpoints, instead"
    )
    checkpointing_start_step: int = Field(0, ge=0, description="no checkpoints before this step; the last step has one")
    checkpoints_total_limit: int | None = Field(None, gt=0, description="checkpoints kept; the oldest go first")
    resume_from_checkpoint: str | None = Field(
        None, validation_alias="resume", description="latest, or the path of a checkpoint"
    )
    validation_prompt: tuple[str, ...] = Field(
        (), description="prompt of the preview pictures; may be given several times"
    )
    validation_negative_prompt: str | None = Field(None, description="what previews are not to show")
    num_validation_images: int = Field(4, ge=0, le=1000, description="preview pictures a prompt each time; 0 for none")
    validation_epochs: int | None = Field(
        None, gt=0, validation_alias="sample_every_n_epochs", description="epochs between previews (scripts: 1)"
    )
    validation_steps: int | None = Field(
        None,
        gt=0,
        validation_alias="sample_every_n_steps",
        description="steps between previews; at checkpoints if unset",
    )
    validation_at_start: bool = Field(
        True, validation_alias="sample_at_first", description="previews before the first step too"
    )
    validation_num_inference_steps: int = Field(25, gt=0, le=1000, description="denoising steps of a preview")
    validation_guidance_scale: float = Field(5.0, ge=0, description="guidance of a preview")
    report_to: str | None = Field(
        None,
        validation_alias="log_with",
        description="trackers of accelerate: tensorboard (the scripts' default), wandb, all, none; with commas",
    )
    logging_dir: Path = Field(Path("logs"), description="the tracker's folder, inside output_dir")
    push_to_hub: bool = Field(False, description="upload the result to the Hub at the end")
    hub_model_id: str | None = Field(None, description="its name there, user/name; that of output_dir if unset")
    pre_compute_text_embeddings: bool = Field(False, description="changes nothing: always on where captions allow it")
    upcast_before_saving: bool = Field(False, description="changes nothing: the adapter is always fp32")
    local_rank: int = Field(-1, description="ignored: accelerate launch tells each process its number")

    @model_validator(mode="after")
    def _agree_on_output(self) -> OutputSettings:
        if self.validation_epochs is not None and self.validation_steps is not None:
            raise ValueError("validation_epochs and validation_steps are both set: leave one out")
        if self.checkpointing_epochs is not None and self.checkpointing_steps != CHECKPOINTING:
            raise ValueError("checkpointing_epochs and checkpointing_steps are both set: leave one out")
        return self

    @field_validator("validation_prompt", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else () if value is None else value

    @field_validator("report_to", mode="after")
    @classmethod
    def _none_is_none(cls, value: str | None) -> str | None:
        return None if value is None or value.strip().lower() == "none" else value

    @field_validator("save_model_as", mode="after")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        name = value if value.lower().endswith(".safetensors") else f"{value}.safetensors"
        if name.startswith(".") or any(mark in name for mark in '/\\\0:*?"<>|') or not name.isprintable():
            raise ValueError("Input should be the name of a file without folders, such as mossy-cat")
        if value.lower().endswith((".ckpt", ".pt", ".bin")) or value.lower() in ("ckpt", "pt"):
            raise ValueError("the adapter is written as .safetensors alone; give its name")
        if name == STATE:
            raise ValueError("checkpoints hold a file of that name; give another one")
        return name
