"""``generate``: a request in, picture files out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lorica.dtypes import dtype_named
from lorica.errors import ConfigError, FileError
from lorica.generating.choices import LoraChoice, RegionChoice
from lorica.generating.sampling import Advance, SamplingSettings, Shot, count_steps, sample
from lorica.generating.schedulers import use_scheduler
from lorica.runtime import Loras, attach
from lorica.runtime.prompt.prompt import prompt as prompted
from lorica.runtime.prompt.tags import Tag, parse_tags
from lorica.training.output.preview import write_picture
from lorica.training.output.sheet import contact_sheet, grid
from lorica.training.progress import Reporter
from lorica.training.recipes.load import load_pipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Pictures to make, and where to write them.

    Picture ``k`` of every prompt comes from ``seed + k``. With several pictures ``output`` is a sheet of all of
    them, and each is also written beside it to a file of its own (``out-1.png``, ``out-2.png``, ...). With ``grid``,
    ``output`` is a comparison: a row per picture, and a column per strength, by which the strength of each adapter is
    multiplied. Prompts may name adapters as tags, whose files are in ``lora_dir``; ``grid`` leaves their strengths.
    ``regions`` limit some of ``loras`` to where a mask is white.
    """

    prompts: Sequence[str]
    output: Path
    base: str = "bundled"
    loras: Sequence[LoraChoice] = ()
    num: int = 1
    seed: int = 0
    scheduler: str | None = None
    settings: SamplingSettings = field(default_factory=SamplingSettings)
    grid: Sequence[float] = ()
    device: str | None = None
    dtype: str | None = None
    lora_dir: Path | None = None
    regions: Sequence[RegionChoice] = ()

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ConfigError("there is nothing to draw: give --prompt, once or several times, or --prompts_file.")
        if self.num < 1:
            raise ConfigError(f"--num must be at least 1, got {self.num}.")
        if self.grid and not self.loras:
            raise ConfigError("--grid compares strengths of adapters: name at least one with --lora.")
        if self.output.suffix.lower() != ".png":
            raise ConfigError(f"--output must end in .png, got {self.output}.")
        dtype_named(self.dtype)  # refuses an unknown name

    @property
    def shots(self) -> list[Shot]:
        """All pictures: prompt by prompt, and within a prompt seed by seed."""
        return [Shot(prompt, self.seed + index) for prompt in self.prompts for index in range(self.num)]


def generate(request: Request, *, quiet: bool = False) -> list[Path]:
    """Make the pictures and return their files, the sheet (or the only picture) first.

    Raises:
        LoRAError: if the base, an adapter or a setting cannot be used, or a file cannot be written.
    """
    reporter = Reporter(quiet=quiet)
    pipeline = prepare_pipeline(request.base, device=request.device, dtype=request.dtype)
    scheduler = use_scheduler(pipeline, request.scheduler)
    loras = attach(pipeline)
    strengths = {loras.load(choice.source, strength=choice.strength): choice.strength for choice in request.loras}
    loras.regions({region.name: region.mask for region in request.regions})
    if request.grid:
        return [_compare(request, pipeline, loras, strengths, scheduler, reporter)]
    shots = request.shots
    with reporter.progress("generating", _steps(request)) as advance:
        pictures = draw(request, pipeline, advance)
    return write_pictures(request, shots, pictures, scheduler)


def draw(request: Request, pipeline: Any, advance: Advance) -> list[Image.Image]:
    """Picture of every shot, sampled together where prompts have the same tags.

    Raises:
        UnknownNameError: if a tag names no adapter in the folder.
    """
    pictures: list[Image.Image] = []
    for _, shots in _by_tags(request.shots):
        with prompted(pipeline, shots[0].prompt, request.lora_dir):
            bare = [Shot(parse_tags(shot.prompt)[0], shot.seed) for shot in shots]
            pictures += sample(pipeline, bare, request.settings, advance=advance)
    return pictures


def _by_tags(shots: Sequence[Shot]) -> list[tuple[list[Tag], list[Shot]]]:
    """Shots in runs of equal tags."""
    return [(tags, list(run)) for tags, run in groupby(shots, key=lambda shot: parse_tags(shot.prompt)[1])]


def _steps(request: Request) -> int:
    return sum(count_steps(len(shots), request.settings) for _, shots in _by_tags(request.shots))


def prepare_pipeline(base: str, *, device: str | None = None, dtype: str | None = None) -> Any:
    """Pipeline of a base model on a device: by default the GPU if there is one, in half precision there."""
    place = device or best_device()
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


def write_pictures(
    request: Request, shots: Sequence[Shot], pictures: Sequence[Image.Image], scheduler: str
) -> list[Path]:
    """Write each picture with its settings as text, and a sheet if there are several."""
    if len(pictures) == 1:
        return [_write(pictures[0], request.output, _facts(request, scheduler, shots, request.loras))]
    digits = len(str(len(pictures)))
    files = [_write(contact_sheet(pictures), request.output, _facts(request, scheduler, shots, request.loras))]
    for number, (shot, picture) in enumerate(zip(shots, pictures, strict=True), start=1):
        path = request.output.with_stem(f"{request.output.stem}-{number:0{digits}d}")
        files.append(_write(picture, path, _facts(request, scheduler, [shot], request.loras)))
    return files


def _compare(
    request: Request, pipeline: Any, loras: Loras, strengths: Mapping[str, float], scheduler: str, reporter: Reporter
) -> Path:
    shots, columns = request.shots, list[list[Image.Image]]()
    with reporter.progress("generating", _steps(request) * len(request.grid)) as advance:
        for factor in request.grid:
            loras.set({name: strength * factor for name, strength in strengths.items()})
            columns.append(draw(request, pipeline, advance))
    labels = [f"strength {factor:g}" for factor in request.grid]
    sheet = grid([list(row) for row in zip(*columns, strict=True)], row_labels=_labels(request), column_labels=labels)
    facts = _facts(request, scheduler, shots, request.loras)
    return _write(sheet, request.output, {**facts, "grid": ", ".join(labels)})


def _labels(request: Request) -> list[str]:
    seeds = request.num > 1
    return [f"{shot.prompt} (seed {shot.seed})" if seeds else shot.prompt for shot in request.shots]


def _facts(request: Request, scheduler: str, shots: Sequence[Shot], loras: Sequence[LoraChoice]) -> dict[str, object]:
    settings = request.settings
    facts: dict[str, object] = {
        "prompt": "\n".join(dict.fromkeys(shot.prompt for shot in shots)),
        "negative_prompt": settings.negative_prompt or "",
        "seed": ", ".join(str(seed) for seed in dict.fromkeys(shot.seed for shot in shots)),
        "steps": settings.steps,
        "guidance": f"{settings.guidance:g}",
        "scheduler": scheduler,
        "base": request.base,
        "adapters": ", ".join(f"{Path(lora.source).name}:{lora.strength:g}" for lora in loras),
    }
    if request.regions:
        facts["regions"] = ", ".join(f"{region.name}: {region.mask.name}" for region in request.regions)
    return facts


def _write(picture: Image.Image, path: Path, facts: Mapping[str, object]) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(picture, path, facts)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error}") from error
    return path
