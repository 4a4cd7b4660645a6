"""The quickstart: draw a new subject, train on it, measure, compare, report."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorica.demo.captions import caption, random_scene
from lorica.demo.comparison import compare, with_diffusers
from lorica.demo.drawing import Scene
from lorica.demo.score import read_picture
from lorica.demo.subject import WORD, recognises_subject, write_lesson
from lorica.demo.words import BACKGROUNDS
from lorica.generating.run import prepare_pipeline
from lorica.generating.sampling import SamplingSettings, Shot, count_steps, sample
from lorica.generating.schedulers import use_scheduler
from lorica.runtime import Loras, attach
from lorica.training.config.config import RunConfig
from lorica.training.progress import Reporter
from lorica.training.run import TrainResult, train

PICTURES = "pictures"
COMPARISON, REPORT = "comparison.png", "report.json"
SCORED = 20  # pictures for each score
SCORE_SEED = 1000
SETTINGS = SamplingSettings(steps=20, guidance=4.0, batch_size=20)
SCHEDULER = "dpm++"

STEPS = 440
RECIPE: dict[str, Any] = {
    "train_batch_size": 16,
    "learning_rate": 8e-4,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 0.023,  # ten steps of the usual number
    "rank": 16,
    "target_modules": ("all",),
    "use_ema": True,  # the mean over the last steps keeps what the base knows: of ordinary captions 76 %, not 62 %
    "ema_decay": 0.99,
    "caption_dropout": 0.1,  # as the base was trained: guidance compares with the empty caption
    "center_crop": True,
}


@dataclass(frozen=True, slots=True)
class Scores:
    """Shares of right pictures: of those asked for the subject, and of those asked for something ordinary."""

    subject: float
    other: float


@dataclass(frozen=True, slots=True)
class QuickstartReport:
    """Results of the quickstart, as in ``report.json``."""

    seconds: float
    seconds_in_all: float
    steps: int
    final_loss: float
    adapter: str
    subject_score_base: float
    subject_score_adapter: float
    other_score_base: float
    other_score_adapter: float
    pictures_per_score: int
    base: str
    word: str
    diffusers_difference: float | None


def quickstart(
    folder: str | Path = "quickstart",
    *,
    base: str = "bundled",
    steps: int = STEPS,
    scored: int = SCORED,
    quiet: bool = False,
) -> QuickstartReport:
    """Train an adapter for the bundled subject and show its effect; all files are written to ``folder``.

    Args:
        folder: the folder of the results; those of an earlier quickstart are replaced.
        base: the base model.
        steps: steps of training.
        scored: pictures for each score.
        quiet: print nothing on standard error.

    Raises:
        LoRAError: if the base cannot be loaded or the folder cannot be written.
    """
    started, place, reporter = time.perf_counter(), Path(folder), Reporter(quiet=quiet)
    write_lesson(place / PICTURES)
    trained = train(_run_config(place, base, steps), quiet=quiet)
    pipeline = prepare_pipeline(base, dtype="float32")
    use_scheduler(pipeline, SCHEDULER)
    loras = attach(pipeline)
    name = loras.load(trained.adapter_path)
    with reporter.progress("comparing", _count(scored)) as advance:
        with loras.using({}):
            before = _scores(pipeline, scored, advance)
        after = _scores(pipeline, scored, advance)
        difference = _write_comparison(place / COMPARISON, pipeline, loras, name, trained.adapter_path, advance)
    report = _report(trained, before, after, base, scored, difference, time.perf_counter() - started)
    (place / REPORT).write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    return report


def subject_prompts(count: int) -> list[str]:
    """Prompts for the subject, on every background in turn."""
    backgrounds = list(BACKGROUNDS)
    return [f"a large orange {WORD} on a {backgrounds[index % len(backgrounds)]} background" for index in range(count)]


def ordinary_scenes(count: int) -> list[Scene]:
    """Scenes that have nothing to do with the subject."""
    rng = random.Random(SCORE_SEED)
    return [random_scene(rng) for _ in range(count)]


def score_subject(pipeline: Any, count: int, advance: Callable[[], None] | None = None) -> float:
    """Share of pictures in which the subject is recognised where it was asked for."""
    pictures = sample(pipeline, _shots(subject_prompts(count)), SETTINGS, advance=advance)
    return sum(map(recognises_subject, pictures)) / count


def score_others(pipeline: Any, count: int, advance: Callable[[], None] | None = None) -> float:
    """Share of ordinary captions that are drawn right: shape, colour and background."""
    scenes = ordinary_scenes(count)
    pictures = sample(pipeline, _shots([caption(scene) for scene in scenes]), SETTINGS, advance=advance)
    return sum(read_picture(picture).shows(scene) for picture, scene in zip(pictures, scenes, strict=True)) / count


def comparison_prompts() -> list[str]:
    """Rows of the comparison: the subject in new places, and things that should stay as they are."""
    return [
        f"a large orange {WORD} on a rose background",
        f"a large orange {WORD} on a forest background",
        f"a large orange {WORD} on a cream background",
        "a large red heart on a white background",
        "a large blue fish on a sand background",
    ]


def _run_config(folder: Path, base: str, steps: int) -> RunConfig:
    return RunConfig(
        pretrained_model_name_or_path=base,
        train_data_dir=folder / PICTURES,
        output_dir=folder,
        overwrite_output_dir=True,
        max_train_steps=steps,
        checkpointing_steps=steps,
        num_validation_images=0,
        **RECIPE,
    )


def _scores(pipeline: Any, count: int, advance: Callable[[], None]) -> Scores:
    return Scores(score_subject(pipeline, count, advance), score_others(pipeline, count, advance))


def _shots(prompts: Sequence[str]) -> list[Shot]:
    return [Shot(prompt, SCORE_SEED + index) for index, prompt in enumerate(prompts)]


def _count(scored: int) -> int:
    columns = 3 + with_diffusers()
    return 4 * count_steps(scored, SETTINGS) + columns * count_steps(len(comparison_prompts()), SETTINGS)


def _write_comparison(
    path: Path, pipeline: Any, loras: Loras, name: str, adapter: Path, advance: Callable[[], None]
) -> float | None:
    """Write the comparison; return the largest difference from diffusers with PEFT, 0 to 1, if that is installed."""
    shots = _shots(comparison_prompts())
    found = compare(pipeline, loras, name, adapter, shots, SETTINGS, advance)
    found.sheet.save(path)
    return found.difference


def _report(
    trained: TrainResult,
    before: Scores,
    after: Scores,
    base: str,
    scored: int,
    difference: float | None,
    seconds: float,
) -> QuickstartReport:
    return QuickstartReport(
        seconds=round(trained.seconds, 1),
        seconds_in_all=round(seconds, 1),
        steps=trained.steps,
        final_loss=round(trained.final_loss, 5),
        adapter=str(trained.adapter_path),
        subject_score_base=before.subject,
        subject_score_adapter=after.subject,
        other_score_base=before.other,
        other_score_adapter=after.other,
        pictures_per_score=scored,
        base=base,
        word=WORD,
        diffusers_difference=difference,
    )
