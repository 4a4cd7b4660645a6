"""Sampling with a pipeline in batches, each picture from its own seed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from lorica.errors import ConfigError
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
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")


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
        _check_takes(pipeline, "negative_prompt")
        given["negative_prompt"] = [settings.negative_prompt] * len(shots)
    output = pipeline(
        prompt=[shot.prompt for shot in shots],
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        generator=[torch.Generator().manual_seed(shot.seed) for shot in shots],  # on the CPU: the same on every device
        callback_on_step_end=_counting(advance) if advance else None,
        **given,
    )
    return list(output.images)


def _check_takes(pipeline: Any, name: str) -> None:
    if name not in inspect.signature(pipeline.__call__).parameters:
        raise ConfigError(f"{type(pipeline).__name__} takes no {name.replace('_', ' ')}; leave --{name} out.")


def _counting(advance: Advance) -> Callable[..., dict[str, Any]]:
    def after_step(pipeline: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
        del pipeline, step, time
        advance()
        return values

    return after_step
