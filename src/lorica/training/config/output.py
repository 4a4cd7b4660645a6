"""Settings of the validation loss, and of everything that a run writes."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from lorica.training.config.settings import StrictSettings


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
        if self.validation_loss_steps is not None and not given:
            raise ValueError(
                "validation_loss_steps is set, but nothing is held out: add validation_split or validation_data_dir"
            )
        return self


class OutputSettings(StrictSettings):
    """The output folder: checkpoints, previews, trackers, upload."""

    output_dir: Path = Field(Path("trained-lora"), description="where everything is written")
    overwrite_output_dir: bool = Field(False, description="delete the checkpoints and previews of an earlier run there")
    checkpointing_steps: int = Field(500, gt=0, description="steps between checkpoints")
    checkpoints_total_limit: int | None = Field(None, gt=0, description="checkpoints kept; the oldest go first")
    resume_from_checkpoint: str | None = Field(None, description="latest, or the path of a checkpoint")
    validation_prompt: str | None = Field(None, description="prompt of the preview pictures")
    num_validation_images: int = Field(4, ge=0, le=1000, description="preview pictures each time; 0 for none")
    validation_epochs: int | None = Field(None, gt=0, description="epochs between previews (scripts: 1)")
    validation_steps: int | None = Field(None, gt=0, description="steps between previews; at checkpoints if unset")
    validation_num_inference_steps: int = Field(25, gt=0, le=1000, description="denoising steps of a preview")
    validation_guidance_scale: float = Field(5.0, ge=0, description="guidance of a preview")
    report_to: str | None = Field(
        None, description="trackers of accelerate: tensorboard (the scripts' default), wandb, all, none; with commas"
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
        if self.hub_model_id is not None and not self.push_to_hub:
            raise ValueError("hub_model_id is set, but nothing is uploaded: add push_to_hub")
        return self
