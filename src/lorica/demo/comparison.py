"""The same prompts and seeds without the adapter, at half and full strength, and in stock diffusers with PEFT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lorica.generating.sampling import SamplingSettings, Shot, sample
from lorica.runtime import Loras
from lorica.training.output.sheet import grid

STRENGTHS = {"base": 0.0, "strength 0.5": 0.5, "strength 1.0": 1.0}
DIFFUSERS = "the same file in diffusers + PEFT"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The labelled sheet, and the largest difference of any pixel between Lorica and diffusers, 0 to 1."""

    sheet: Image.Image
    difference: float | None


def with_diffusers() -> bool:
    """Whether PEFT is installed, without which diffusers loads no adapters."""
    return find_spec("peft") is not None


def compare(
    pipeline: Any, loras: Loras, name: str, adapter: Path, shots: Sequence[Shot], settings: SamplingSettings,
    advance: Callable[[], None] | None = None,
) -> Comparison:  # fmt: skip
    """Comparison of one adapter: a row per shot; columns for the base, two strengths, and diffusers if PEFT is here.

    All adapters are removed from the pipeline on the way.
    """
    columns: dict[str, list[Image.Image]] = {}
    for label, strength in STRENGTHS.items():
        with loras.using({name: strength} if strength else {}):
            columns[label] = sample(pipeline, shots, settings, advance=advance)
    difference = None
    if with_diffusers():
        loras.detach()
        columns[DIFFUSERS] = _draw_in_diffusers(pipeline, adapter, shots, settings, advance)
        difference = _largest_difference(columns["strength 1.0"], columns[DIFFUSERS])
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    return Comparison(grid(rows, row_labels=[shot.prompt for shot in shots], column_labels=list(columns)), difference)


def _draw_in_diffusers(
    pipeline: Any, adapter: Path, shots: Sequence[Shot], settings: SamplingSettings, advance: Callable[[], None] | None
) -> list[Image.Image]:
    pipeline.load_lora_weights(adapter.parent, weight_name=adapter.name)
    try:
        return sample(pipeline, shots, settings, advance=advance)
    finally:
        pipeline.unload_lora_weights()


def _largest_difference(ours: Sequence[Image.Image], theirs: Sequence[Image.Image]) -> float:
    pairs = zip(ours, theirs, strict=True)
    return max(float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).max()) for a, b in pairs) / 255
