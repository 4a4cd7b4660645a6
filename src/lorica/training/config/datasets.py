"""One data set of several: a ``[[datasets]]`` table of a run file, or one ``--datasets`` of the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import AliasChoices, Field, model_validator

from lorica.errors import ConfigError
from lorica.printing import printable
from lorica.training.config.settings import StrictSettings


class SetSettings(StrictSettings):
    """One data set. Unset values are those of the run.

    A regularisation set shows what the model is to go on knowing: the trigger word, prefix and suffix of the run are
    not put into its captions.

    Raises:
        ConfigError: for an unknown name, a value out of range, or settings that contradict each other.
    """

    name: str | None = Field(None, min_length=1, description="its name in messages; the folder's name if unset")
    train_data_dir: Path | None = Field(
        None,
        validation_alias=AliasChoices("train_data_dir", "folder", "image_dir"),
        description="folder of pictures with metadata.jsonl or .txt captions",
    )
    dataset_name: str | None = Field(None, description="data set of the Hub, or a table or folder on disk")
    dataset_config_name: str | None = Field(None, description="which of the data sets of that name")
    image_column: str | None = Field(None, description="its column of pictures")
    caption_column: str | None = Field(None, description="field of metadata.jsonl, or column, that holds the caption")
    instance_prompt: str | None = Field(
        None,
        validation_alias=AliasChoices("instance_prompt", "caption", "class_prompt", "class_tokens"),
        description="one caption for every picture of the set",
    )
    max_train_samples: int | None = Field(None, gt=0, description="use only so many of its pictures, drawn by the seed")
    repeats: int = Field(1, gt=0, validation_alias="num_repeats", description="how often an epoch sees each picture")
    weight: float | None = Field(None, gt=0, description="its share of the samples, over the sum of all weights")
    is_reg: bool = Field(False, description="a regularisation set: comes as often as all others together")
    loss_weight: float = Field(
        1.0, ge=0, validation_alias="prior_loss_weight", description="factor of the losses of its samples"
    )
    masked_loss: bool | None = None
    shuffle_tags: bool | None = Field(None, validation_alias="shuffle_caption")
    keep_tokens: int | None = Field(None, ge=0)
    keep_tokens_separator: str | None = None
    caption_separator: str | None = Field(None, min_length=1)
    caption_dropout: float | None = Field(None, ge=0, le=1, validation_alias="caption_dropout_rate")
    tag_dropout: float | None = Field(None, ge=0, le=1, validation_alias="caption_tag_dropout_rate")
    trigger_word: str | None = None
    caption_prefix: str | None = None
    caption_suffix: str | None = None
    enable_wildcards: bool | None = Field(None, validation_alias="enable_wildcard")

    @model_validator(mode="after")
    def _agree(self) -> SetSettings:
        if self.train_data_dir is None and self.dataset_name is None:
            raise ValueError("a data set names no pictures: give its folder, or a dataset_name")
        if self.train_data_dir is not None and self.dataset_name is not None:
            raise ValueError("a data set has a folder and a dataset_name: leave one out")
        return self

    @property
    def title(self) -> str:
        """Name of the data set in messages."""
        where = self.train_data_dir or self.dataset_name or ""
        return self.name or Path(where).resolve().name


def read_set(values: object) -> object:
    """Settings of a data set given as ``NAME=VALUE,NAME=VALUE``, as JSON or as they are, by name.

    Dashes in names count as underscores.

    Raises:
        ConfigError: for another text.
    """
    found = _pairs(values) if isinstance(values, str) else values
    if not isinstance(found, Mapping):
        return found
    return {str(name).replace("-", "_"): value for name, value in cast("Mapping[object, Any]", found).items()}


def _pairs(text: str) -> object:
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{printable(text)!r} is not valid JSON ({error})") from error
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(equals and name.strip() for name, equals, _ in pairs):
        raise ConfigError(
            f"datasets takes NAME=VALUE,NAME=VALUE such as folder=cats,repeats=4, or a JSON object, got {text!r}"
        )
    return {name.strip(): value.strip() for name, _, value in pairs}
