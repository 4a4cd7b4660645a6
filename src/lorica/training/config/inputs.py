"""Settings of what goes into a run: the base model, the pictures with their captions, and how pictures are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from lorica.errors import ConfigError
from lorica.training.config.datasets import SetSettings, read_set
from lorica.training.config.settings import StrictSettings

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]

# Settings of the run's own data set alone, and those that every other set may override.
OWN = ("train_data_dir", "dataset_name", "dataset_config_name", "instance_prompt", "repeats", "max_train_samples")
SHARED = (
    "image_column", "caption_column", "masked_loss", "shuffle_tags", "keep_tokens", "keep_tokens_separator",
    "caption_separator", "caption_dropout", "tag_dropout", "trigger_word", "caption_prefix", "caption_suffix",
    "enable_wildcards",
)  # fmt: skip
LEARNT = ("trigger_word", "caption_prefix", "caption_suffix")  # what regularisation sets must not be captioned with


class ModelSettings(StrictSettings):
    """The base model."""

    pretrained_model_name_or_path: str = Field("bundled", description="'bundled', a folder, a Hub id or a .safetensors")
    revision: str | None = Field(None, description="branch, tag or commit of the Hub model")
    variant: str | None = Field(None, description="file variant of the model, such as fp16")
    cache_dir: Path | None = Field(None, description="where models from the Hub are kept")


class DataSettings(StrictSettings):
    """Data sets and captions."""

    train_data_dir: Path | None = Field(
        None,
        validation_alias="instance_data_dir",
        description="folder of pictures with metadata.jsonl or .txt captions",
    )
    dataset_name: str | None = Field(None, description="data set of the Hub, or a table or folder on disk, instead")
    dataset_config_name: str | None = Field(None, description="which of the data sets of that name")
    image_column: str = Field("image", description="column of dataset_name that holds the pictures")
    caption_column: str = Field("text", description="field of metadata.jsonl, or column, that holds the caption")
    on_bad_image: Literal["stop", "skip"] = Field(
        "stop", description="pictures that cannot be read: stop the run, or leave them out"
    )
    instance_prompt: str | None = Field(None, description="one caption for every picture; others are not read")
    masked_loss: bool = Field(
        False,
        validation_alias="alpha_mask",
        description="the loss counts where masks are white: files in mask/ beside the pictures, or alpha channels",
    )
    unmasked_weight: float = Field(0.0, ge=0, le=1, description="weight of the loss where masks are black")
    shuffle_tags: bool = Field(
        False, validation_alias="shuffle_caption", description="shuffle the tags of a caption each time"
    )
    keep_tokens: int = Field(0, ge=0, description="tags at the front that are neither shuffled nor dropped")
    keep_tokens_separator: str | None = Field(None, description="a mark such as ||| behind the tags that are kept")
    caption_separator: str = Field(",", min_length=1, description="separator of tags")
    caption_dropout: float = Field(
        0.0,
        ge=0,
        le=1,
        validation_alias="caption_dropout_rate",
        description="share of captions that are left empty, for guidance",
    )
    tag_dropout: float = Field(
        0.0, ge=0, le=1, validation_alias="caption_tag_dropout_rate", description="share of tags that are left out"
    )
    trigger_word: str | None = Field(None, description="put at the front of captions that do not hold it")
    caption_prefix: str | None = Field(None, description="put before every caption that is not empty")
    caption_suffix: str | None = Field(None, description="put behind every caption that is not empty")
    enable_wildcards: bool = Field(
        False, validation_alias="enable_wildcard", description="draw one of {a|b}, and one line of a .txt file"
    )
    on_long_caption: Literal["cut", "stop"] = Field("cut", description="captions with more tokens than the model reads")
    max_train_samples: int | None = Field(None, gt=0, description="use only so many pictures, drawn by the seed")
    repeats: int = Field(1, gt=0, description="how often an epoch sees each picture")
    datasets: tuple[Annotated[SetSettings, BeforeValidator(read_set)], ...] = Field(
        (), description="one more data set: folder=DIR,repeats=4 or folder=DIR,is_reg=true and so on"
    )
    with_prior_preservation: bool = Field(False, description="half of the samples are pictures of class_data_dir")
    class_data_dir: Path | None = Field(None, description="pictures of the class, such as any dogs; drawn if none")
    class_prompt: str | None = Field(None, description="prompt by which they are drawn, and one caption for them all")
    num_class_images: int | None = Field(None, gt=0, description="use so many of them; missing ones are drawn")
    prior_loss_weight: float = Field(1.0, ge=0, description="factor of their losses")

    def sets(self) -> list[SetSettings]:
        """Every data set: the run's own, the named ones, the class pictures; unset values are those of the run.

        Raises:
            ConfigError: if no pictures are named.
        """
        sets = list(self.datasets)
        if self.train_data_dir is not None or self.dataset_name is not None:
            sets.insert(0, SetSettings.model_validate({name: getattr(self, name) for name in OWN}))
        if self.class_data_dir is not None:
            class_set = {
                "name": "class pictures",
                "train_data_dir": self.class_data_dir,
                "instance_prompt": self.class_prompt,
                "is_reg": True,
                "loss_weight": self.prior_loss_weight,
                "max_train_samples": self.num_class_images,
            }
            sets.append(SetSettings.model_validate(class_set))
        if not sets:
            raise ConfigError("no pictures are named: give a folder with --train_data_dir, or a --dataset_name.")
        return [self._completed(one) for one in sets]

    def _completed(self, one: SetSettings) -> SetSettings:
        missing = [name for name in SHARED if getattr(one, name) is None and not (one.is_reg and name in LEARNT)]
        return one.model_copy(update={name: getattr(self, name) for name in missing})

    @model_validator(mode="after")
    def _agree_on_captions(self) -> DataSettings:
        if self.keep_tokens and not (self.shuffle_tags or self.tag_dropout):
            raise ValueError("keep_tokens is set, but no tag is moved or dropped: add shuffle_tags or tag_dropout")
        mark = self.keep_tokens_separator
        if mark is not None and (not mark or mark in self.caption_separator):
            raise ValueError(f"keep_tokens_separator must be a mark that caption_separator does not hold, got {mark!r}")
        return self

    @model_validator(mode="after")
    def _agree_on_sources(self) -> DataSettings:
        if self.train_data_dir is not None and self.dataset_name is not None:
            raise ValueError("train_data_dir and dataset_name are both set: leave one out, or add it to datasets")
        if self.dataset_config_name is not None and self.dataset_name is None:
            raise ValueError("dataset_config_name is set without dataset_name")
        return self

    @model_validator(mode="after")
    def _agree_on_masks(self) -> DataSettings:
        if self.unmasked_weight and not (self.masked_loss or any(one.masked_loss for one in self.datasets)):
            raise ValueError("unmasked_weight is set, but masks do not count: add masked_loss")
        return self

    @model_validator(mode="after")
    def _agree_on_class_pictures(self) -> DataSettings:
        given = [
            name for name in ("class_data_dir", "class_prompt", "num_class_images") if getattr(self, name) is not None
        ]
        if self.with_prior_preservation and self.class_data_dir is None:
            raise ValueError(
                "with_prior_preservation needs pictures of the class: give class_data_dir "
                "(with class_prompt they are drawn into it, if you have none)"
            )
        if given and not self.with_prior_preservation:
            raise ValueError(f"{given[0]} is set, but no class pictures are seen: add with_prior_preservation")
        return self


class PictureSettings(StrictSettings):
    """How pictures are cut to size and kept."""

    resolution: int | None = Field(
        None, ge=8, le=16384, description="side in pixels; the model's own if unset (scripts: 512)"
    )
    use_aspect_ratio_buckets: bool = Field(
        False,
        validation_alias="enable_bucket",
        description="keep the shapes of pictures: frames of about the area of resolution squared",
    )
    bucket_reso_steps: int | None = Field(None, gt=0, description="sides of frames are multiples; the model's if unset")
    min_bucket_reso: int | None = Field(None, gt=0, description="shortest side of a frame; half of resolution if unset")
    max_bucket_reso: int | None = Field(None, gt=0, description="longest side of a frame; twice resolution if unset")
    bucket_no_upscale: bool = Field(False, description="smaller frames for small pictures: none is enlarged")
    center_crop: bool = Field(False, description="cut the middle; otherwise cuts at random")
    random_flip: bool = Field(
        False, validation_alias="flip_aug", description="mirror half of the pictures seen, left to right"
    )
    image_interpolation_mode: Interpolation = Field("lanczos", description="how pictures are resized")
    no_cache: bool = Field(False, description="cut and encode pictures anew each time: slower, but cuts lie anywhere")
    cache_latents: bool = Field(False, description="always on; not with no_cache")
    random_crops: int = Field(
        4, gt=0, le=1000, description="different cuts of a picture that are cached without --center_crop"
    )
    dataloader_num_workers: int = Field(
        0,
        ge=0,
        le=256,
        validation_alias="max_data_loader_n_workers",
        description="threads that decode pictures while others are encoded",
    )

    @model_validator(mode="after")
    def _agree_on_the_cache(self) -> PictureSettings:
        if self.no_cache and self.cache_latents:
            raise ValueError("no_cache and cache_latents contradict each other: leave one out")
        return self
