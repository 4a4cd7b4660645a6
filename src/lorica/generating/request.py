"""Request for pictures: what to draw, with which adapters and settings, and where to write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lorica.dtypes import dtype_named
from lorica.errors import ConfigError, escaped
from lorica.generating.choices import LoraChoice, RegionChoice
from lorica.generating.grid import Axis, Variant, check_axes
from lorica.generating.sampling import SamplingSettings, Shot
from lorica.runtime.prompt.lookup import checked_folder

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Pictures to make, and where to write them.

    Picture ``k`` of every prompt comes from ``seed + k``. With several pictures ``output`` is a sheet of all of
    them, and each is also written beside it to a file of its own (``out-1.png``, ``out-2.png``, ...). With ``grid``,
    ``output`` is a comparison: a column for each variant of its first axis, and a row for each picture and each variant
    of its second. Prompts may name adapters as tags, whose files are in ``lora_dir``; an axis of strengths leaves them.
    ``regions`` limit some of ``loras`` to where a mask is white. Without ``strict``, what does not fit the model of an
    adapter's file is left out, and said.
    """

    prompts: Sequence[str]
    output: Path
    base: str = "bundled"
    loras: Sequence[LoraChoice] = ()
    num: int = 1
    seed: int = 0
    scheduler: str | None = None
    settings: SamplingSettings = field(default_factory=SamplingSettings)
    grid: Sequence[Axis] = ()
    device: str | None = None
    dtype: str | None = None
    lora_dir: Path | None = None
    regions: Sequence[RegionChoice] = ()
    strict: bool = True

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ConfigError("there is nothing to draw: give --prompt, once or several times, or --prompts_file.")
        for text in (*self.prompts, self.settings.negative_prompt or ""):
            if escaped(text) != text:
                raise ConfigError(f"a prompt holds characters that are no text: {escaped(text)!r}. Write it anew.")
        if self.num < 1:
            raise ConfigError(f"--num must be at least 1, got {self.num}.")
        check_axes(self.grid, adapters=bool(self.loras), pictures=self.num)
        if self.output.suffix.lower() != ".png":
            raise ConfigError(f"--output must end in .png, got {self.output}.")
        if self.lora_dir is not None:
            checked_folder(self.lora_dir)
        dtype_named(self.dtype)  # refuses an unknown name
        for variant in (Variant(), *(variant for axis in self.grid for variant in axis.variants)):
            for seed in (shot.seed for shot in self.shots_of(variant)):
                if not 0 <= seed <= LARGEST_SEED:
                    raise ConfigError(f"a seed must be from 0 to 2^63 - 1, got {seed}.")
            self.settings_of(variant)  # refuses steps out of range before anything is loaded

    @property
    def shots(self) -> list[Shot]:
        """All pictures: prompt by prompt, and within a prompt seed by seed."""
        return self.shots_of(Variant())

    def shots_of(self, variant: Variant) -> list[Shot]:
        """The pictures of one row or column of a grid."""
        seed = self.seed if variant.seed is None else variant.seed
        return [Shot(prompt, seed + index) for prompt in self.prompts for index in range(self.num)]

    def settings_of(self, variant: Variant) -> SamplingSettings:
        """The settings of one row or column of a grid."""
        return self.settings if variant.steps is None else replace(self.settings, steps=variant.steps)
