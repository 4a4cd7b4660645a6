"""Sampling with a pipeline in batches, each picture from its own seed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from lorica.errors import ConfigError, LoRAError
from lorica.training.progress import Advance


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture to make: a prompt and a seed."""

    prompt: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """Settings of a sampling run. ``height`` and ``width`` in pixels; None means the model's own."""

    steps: int = 25
    guidance: float = 5.0
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    batch_size: int = 4

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "height", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}.")
        if (self.height is None) != (self.width is None):
            given, missing = ("height", "width") if self.width is None else ("width", "height")
            raise ConfigError(
                f"{given} is {getattr(self, given)} and {missing} is not given, so the model's own size would be used: "
                f"give --height and --width, or neither."
            )
        if not math.isfinite(self.guidance) or self.guidance < 0:
            raise ConfigError(f"guidance must be a number from 0, got {self.guidance}.")


def sample(
    pipeline: Any, shots: Sequence[Shot], settings: SamplingSettings, *, advance: Advance | None = None
) -> list[Image.Image]:
    """One picture per shot. It does not depend on the other shots of its batch.

    Args:
        pipeline: a diffusers pipeline that makes pictures from text.
        shots: prompts and seeds.
        settings: steps, guidance, size.
        advance: called after each denoising step of each batch.
    """
    pipeline.set_progress_bar_config(disable=True)
    pictures: list[Image.Image] = []
    for start in range(0, len(shots), settings.batch_size):
        pictures += _run(pipeline, shots[start : start + settings.batch_size], settings, advance)
    return pictures


def count_steps(shots: int, settings: SamplingSettings) -> int:
    """Number of calls of ``advance`` for a number of shots."""
    return -(-shots // settings.batch_size) * settings.steps


def _run(
    pipeline: Any, shots: Sequence[Shot], settings: SamplingSettings, advance: Advance | None
) -> list[Image.Image]:
    given: dict[str, Any] = {"height": settings.height, "width": settings.width}
    if settings.negative_prompt is not None:
        _check_negative_prompt(pipeline, settings)
        given["negative_prompt"] = [settings.negative_prompt] * len(shots)
    try:
        output = pipeline(
            prompt=[shot.prompt for shot in shots],
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            generator=[torch.Generator().manual_seed(shot.seed) for shot in shots],  # on the CPU, for every device
            callback_on_step_end=_counting(advance) if advance else None,
            **given,
        )
    except LoRAError:
        raise
    except ValueError as error:  # such as a height that is not a multiple of 8
        raise ConfigError(f"{type(pipeline).__name__} refuses these settings: {error}") from error
    return list(output.images)


def _check_negative_prompt(pipeline: Any, settings: SamplingSettings) -> None:
    """Refuse a negative prompt that would do nothing."""
    taken = inspect.signature(pipeline.__call__).parameters
    if "negative_prompt" not in taken:
        raise ConfigError(f"{type(pipeline).__name__} takes no negative prompt; leave --negative_prompt out.")
    if settings.guidance <= 1 and "true_cfg_scale" not in taken:
        raise ConfigError(
            f"a negative prompt acts only with guidance above 1, and guidance is {settings.guidance:g}: leave "
            "--negative_prompt out, or raise --guidance."
        )


def _counting(advance: Advance) -> Callable[..., dict[str, Any]]:
    def after_step(pipeline: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
        del pipeline, step, time
        advance()
        return values

    return after_step
