"""``generate``: a request in, picture files out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lorica.adapters import Adapter, Report
from lorica.dtypes import dtype_named
from lorica.errors import ConfigError, ModelError
from lorica.formats import read
from lorica.generating.choices import LoraChoice, distinct_names, located
from lorica.generating.grid import Variant
from lorica.generating.infotext import BASE, Hashing
from lorica.generating.pictures import PictureWriter
from lorica.generating.request import Request
from lorica.generating.sampling import Advance, SamplingSettings, Shot, count_steps, sample
from lorica.generating.schedulers import use_scheduler
from lorica.runtime import Loras, attach
from lorica.runtime.prompt.lookup import find_adapter
from lorica.runtime.prompt.prompt import apply_tags, truncated
from lorica.runtime.prompt.tags import Tag, parse_tags
from lorica.tools.base_model import refuse_adapter
from lorica.training.progress import Reporter
from lorica.training.recipes.load import load_pipeline

SHOWN = 3  # keys that are named of those that are left out


@dataclass(frozen=True, slots=True)
class Take:
    """Pictures that are drawn with the same adapters and settings.

    Args:
        shots: prompts and seeds.
        settings: steps and the rest.
        tags: the adapters, beside those that prompts name.
    """

    shots: Sequence[Shot]
    settings: SamplingSettings
    tags: Sequence[Tag] = ()

    @property
    def steps(self) -> int:
        """Number of denoising steps of all batches."""
        return sum(count_steps(len(shots), self.settings) for _, shots in _by_tags(self.shots))


def generate(request: Request, *, quiet: bool = False) -> list[Path]:
    """Make the pictures and return their files, the sheet (or the only picture) first.

    Raises:
        LoRAError: if the base, an adapter or a setting cannot be used, or a file cannot be written.
    """
    reporter = Reporter(quiet=quiet)
    pipeline = prepare_pipeline(request.base, device=request.device, dtype=request.dtype)
    scheduler = use_scheduler(pipeline, request.scheduler)
    loras = attach(pipeline)
    columns, rows = (*(axis.variants for axis in request.grid), (Variant(),), (Variant(),))[:2]
    compared = list(dict.fromkeys(variant.adapter for variant in (*columns, *rows) if variant.adapter))
    choices = [located(choice, request.lora_dir) for choice in (*request.loras, *compared)]
    names, tags = load_choices(loras, choices, reporter, strict=request.strict)
    loras.regions({region.name: region.mask for region in request.regions})
    own, by_choice = tags[: len(request.loras)], dict(zip(compared, tags[len(request.loras) :], strict=True))
    takes = [[_take(request, row & column, own, by_choice) for column in columns] for row in rows]
    total = sum(take.steps for line in takes for take in line)
    with Hashing(_files(request, names)) as hashing:
        with reporter.progress("generating", total) as advance:
            pictures = [[draw(pipeline, loras, take, request.lora_dir, advance) for take in line] for line in takes]
        writer = PictureWriter(request, scheduler, own, hashing.values() if not request.grid else {})
    if request.grid:
        return [writer.write_comparison(pictures)]
    return writer.write(takes[0][0].shots, pictures[0][0])


def load_choices(
    loras: Loras, choices: Sequence[LoraChoice], reporter: Reporter, *, strict: bool = True
) -> tuple[dict[str, str], list[Tag]]:
    """Load adapters under names that all differ; return name to source, and the tag of each by its name.

    Args:
        loras: the adapters of the pipeline.
        choices: what to load.
        reporter: for what is left out of a file.
        strict: whether nothing may be left out.

    Raises:
        LoRAError: if one of them cannot be read or does not fit.
    """
    names = distinct_names([choice.source for choice in choices])
    for name, choice in zip(names, choices, strict=True):
        adapter = read(choice.source, target=loras.target(), strict=strict)
        if adapter.report and adapter.report.unused:
            reporter.say(_left_out(choice.source, adapter, adapter.report))
        loras.load(truncated(adapter, choice.tag.ranks, name) if choice.tag.ranks else adapter, name=name)
    loras.set({})
    tags = [replace(choice.tag, name=name, ranks=None) for name, choice in zip(names, choices, strict=True)]
    return {name: choice.source for name, choice in zip(names, choices, strict=True)}, tags


def _left_out(source: str, adapter: Adapter, report: Report) -> str:
    """What is said of a file that is used in part.

    Raises:
        ModelError: if nothing of it can be used.
    """
    first = "; ".join(f"{left.key}: {left.reason}" for left in report.unused[:SHOWN])
    more = f"; and {len(report.unused) - SHOWN} more" if len(report.unused) > SHOWN else ""
    if not len(adapter) and not adapter.embeddings:
        raise ModelError(f"nothing of {source} can be used on this model: {first}{more}.")
    return f"{len(report.unused)} keys of {source} are left out: {first}{more}"


def _take(request: Request, variant: Variant, own: Sequence[Tag], by_choice: Mapping[LoraChoice, Tag]) -> Take:
    tags = [*own, *([by_choice[variant.adapter]] if variant.adapter else [])]
    return Take(request.shots_of(variant), request.settings_of(variant), [tag.times(variant.factor) for tag in tags])


def _files(request: Request, loaded: Mapping[str, str]) -> dict[str, str | Path]:
    """The base and every adapter, also those that prompts name, with their files."""
    named = {tag.name for prompt in request.prompts for tag in parse_tags(prompt)[1]} - loaded.keys()
    return {
        BASE: request.base,
        **loaded,
        **{name: find_adapter(request.lora_dir, name, list(loaded)) for name in named},
    }


def draw(pipeline: Any, loras: Loras, take: Take, lora_dir: Path | None, advance: Advance) -> list[Image.Image]:
    """Picture of every shot, sampled together where prompts have the same tags.

    A prompt's tag of an adapter takes the place of the request's own.

    Raises:
        UnknownNameError: if a tag names no adapter.
    """
    pictures: list[Image.Image] = []
    for named, shots in _by_tags(take.shots):
        names = {tag.name for tag in named}
        with ExitStack() as stack:
            apply_tags(stack, loras, [*(tag for tag in take.tags if tag.name not in names), *named], lora_dir)
            bare = [Shot(parse_tags(shot.prompt)[0], shot.seed) for shot in shots]
            pictures += sample(pipeline, bare, take.settings, advance=advance)
    return pictures


def _by_tags(shots: Sequence[Shot]) -> list[tuple[list[Tag], list[Shot]]]:
    """Shots in runs of equal tags."""
    return [(tags, list(run)) for tags, run in groupby(shots, key=lambda shot: parse_tags(shot.prompt)[1])]


def prepare_pipeline(base: str, *, device: str | None = None, dtype: str | None = None) -> Any:
    """Pipeline of a base model on a device: by default the GPU if there is one, in half precision there."""
    place = device or best_device()
    refuse_adapter(base)
    try:
        chosen = torch.device(place)
        precision = dtype_named(dtype) or (torch.float16 if chosen.type == "cuda" else torch.float32)
        return load_pipeline(base, dtype=precision).to(chosen)
    except (RuntimeError, AssertionError) as error:  # torch raises either for a device that is unknown or not there
        if device is None:
            raise
        raise ConfigError(f"cannot use the device {device!r}: {str(error).splitlines()[0]}") from error


def best_device() -> str:
    """Name of the fastest device of this machine."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
