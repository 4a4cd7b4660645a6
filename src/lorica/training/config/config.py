"""The whole configuration of a training run: one frozen model for the run file, the command line and the web form.

Names and defaults are those of the diffusers text-to-image LoRA script. Where a default differs, the field says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import model_validator

from lorica.errors import ConfigError
from lorica.training.config.idle import refusals
from lorica.training.config.kohya import from_kohya
from lorica.training.config.settings import read_toml
from lorica.training.config.topics import RunSettings


class RunConfig(RunSettings):
    """One training run. Unknown names are refused with the nearest known one.

    Code below ``setup`` never takes it whole: ``config.part(OptimizerSettings)`` is the value for one topic.

    Raises:
        ConfigError: for an unknown name, a value out of range, or settings that contradict each other.
    """

    @model_validator(mode="after")
    def _agree_across_topics(self) -> RunConfig:
        if self.base_precision in ("int8", "nf4") and self.init_lora_weights == "pissa":
            raise ValueError(f"pissa splits the weights of the base, which {self.base_precision} packs: leave one out")
        if problems := list(refusals(self)):
            raise ValueError("; ".join(problems))
        return self

    @classmethod
    def from_toml(cls, path: str | Path) -> RunConfig:
        """Configuration of a run file: one ``name = value`` a line, names as on the command line.

        Raises:
            FileError: if the file cannot be read.
            ConfigError: if it is not TOML or holds a setting that is unknown or wrong.
        """
        return cls.from_values(read_toml(Path(path)), f"in {path}: ")

    @classmethod
    def from_values(cls, values: Mapping[str, Any], where: str = "") -> RunConfig:
        """Configuration from settings by name; dashes count as underscores, and errors begin with ``where``."""
        try:
            return cls(**from_kohya({name.replace("-", "_"): value for name, value in values.items()}))
        except ConfigError as error:
            raise ConfigError(f"{where}{error}") from None

    def to_toml(self) -> str:
        """The run file of this run, complete with defaults; unset values are comments."""
        values = self.model_dump(mode="json")
        sets = [{name: value for name, value in one.items() if value is not None} for one in values.pop("datasets")]
        lines = [
            f"# {name} is unset\n" if value is None else tomli_w.dumps({name: value}) for name, value in values.items()
        ]
        return "".join(lines) + "\n" + tomli_w.dumps({"datasets": sets})  # tables must stand last
