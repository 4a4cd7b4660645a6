"""Measure a base model of the bundled kind: how many of its pictures show what the caption says.

``python -m lorica.demo.measure [--model FOLDER] [--pictures 200]``
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lorica.demo.bundle import bundled_model
from lorica.demo.captions import caption, random_scene
from lorica.demo.drawing import Scene
from lorica.demo.score import Reading, read_picture
from lorica.generating.run import prepare_pipeline
from lorica.generating.sampling import Settings, Shot, count_steps, sample
from lorica.generating.schedulers import use_scheduler
from lorica.training.progress import Reporter

STEPS = 25
GUIDANCE = 6.0
SCHEDULER = "dpm++"
SEED = 2026
BATCH = 20
GROUPS = {"seen": False, "never seen": True}  # whether the pair of shape and colour was left out of training
TARGETS = {"seen": 0.90, "never seen": 0.75}


@dataclass(frozen=True, slots=True)
class Trial:
    """A scene that was asked for and what the picture shows."""

    scene: Scene
    reading: Reading

    @property
    def right(self) -> bool:
        """Whether shape, colour, background and the number of figures are as asked."""
        return self.reading.shows(self.scene) and self.reading.count == len(self.scene.centers)


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of pictures: right in all, and in each single thing."""

    pictures: int
    right: float
    shape: float
    color: float
    background: float
    count: float


def scenes_to_ask(count: int, *, unseen: bool, single: bool, seed: int = SEED) -> list[Scene]:
    """Return the scenes of a measurement: the same for the same arguments."""
    rng = random.Random(f"{seed}/{unseen}/{single}")
    return [random_scene(rng, unseen=unseen, single=single) for _ in range(count)]


def try_scenes(
    pipeline: Any,
    scenes: Sequence[Scene],
    settings: Settings,
    *,
    seed: int = SEED,
    advance: Callable[[], None] | None = None,
) -> list[Trial]:
    """Ask for each scene by its caption, picture ``k`` from ``seed + k``, and read the pictures."""
    shots = [Shot(caption(scene), seed + index) for index, scene in enumerate(scenes)]
    pictures = sample(pipeline, shots, settings, advance=advance)
    return [Trial(scene, read_picture(picture)) for scene, picture in zip(scenes, pictures, strict=True)]


def shares_of(trials: Sequence[Trial]) -> Shares:
    """Return the shares of trials that are right."""

    def share(test: Callable[[Trial], bool]) -> float:
        return round(sum(map(test, trials)) / len(trials), 4)

    return Shares(
        pictures=len(trials),
        right=share(lambda trial: trial.right),
        shape=share(lambda trial: trial.reading.shape == trial.scene.shape),
        color=share(lambda trial: trial.reading.color == trial.scene.color),
        background=share(lambda trial: trial.reading.background == trial.scene.background),
        count=share(lambda trial: trial.reading.count == len(trial.scene.centers)),
    )


def breakdown(trials: Sequence[Trial], by: Callable[[Scene], str]) -> dict[str, str]:
    """Return ``right/asked`` for each value of a property of the scene."""
    asked = Counter(by(trial.scene) for trial in trials)
    right = Counter(by(trial.scene) for trial in trials if trial.right)
    return {name: f"{right[name]}/{asked[name]}" for name in sorted(asked)}


def measure(
    model: str | Path, pictures: int, settings: Settings, *, scheduler: str = SCHEDULER, single: bool = False
) -> dict[str, list[Trial]]:
    """Return the trials of each group: pairs that training saw, and pairs that it never saw."""
    pipeline = prepare_pipeline(str(model), dtype="float32")
    use_scheduler(pipeline, scheduler)
    trials: dict[str, list[Trial]] = {}
    with Reporter().progress("measuring", len(GROUPS) * count_steps(pictures, settings)) as advance:
        for group, unseen in GROUPS.items():
            scenes = scenes_to_ask(pictures, unseen=unseen, single=single)
            trials[group] = try_scenes(pipeline, scenes, settings, advance=advance)
    return trials


def summary(trials: Mapping[str, Sequence[Trial]]) -> dict[str, Any]:
    """Return the figures of a measurement, ready for JSON."""
    return {
        group: {
            **asdict(shares_of(found)),
            "target": TARGETS[group],
            "by_shape": breakdown(found, lambda scene: scene.shape),
            "by_color": breakdown(found, lambda scene: scene.color),
            "by_background": breakdown(found, lambda scene: scene.background),
            "by_kind": breakdown(found, kind_of),
        }
        for group, found in trials.items()
    }


def kind_of(scene: Scene) -> str:
    """Return size and pattern, or the number of figures."""
    return f"{len(scene.centers)} figures" if len(scene.centers) > 1 else f"{scene.size} {scene.pattern}"


def table_of(figures: Mapping[str, Any]) -> Table:
    """Return the figures as a table for the terminal."""
    table = Table("pairs", "pictures", "right", "target", "shape", "colour", "background", "count")
    for group, row in figures.items():
        shares = (f"{row[name]:.1%}" for name in ("right", "target", "shape", "color", "background", "count"))
        table.add_row(group, str(row["pictures"]), *shares)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure a model, print the table and the breakdown, and write them as JSON."""
    options = _parser().parse_args(arguments)
    settings = Settings(steps=options.steps, guidance=options.guidance, batch_size=BATCH)
    trials = measure(
        options.model or bundled_model(), options.pictures, settings, scheduler=options.scheduler, single=options.single
    )
    figures = summary(trials)
    console = Console()
    console.print(table_of(figures))
    for group, row in figures.items():
        for name in ("by_kind", "by_shape", "by_color", "by_background"):
            console.print(f"{group}, {name}: " + ", ".join(f"{key} {value}" for key, value in row[name].items()))
    told = {"steps": options.steps, "guidance": options.guidance, "scheduler": options.scheduler, "seed": SEED}
    if options.output:
        options.output.write_text(json.dumps({**told, **figures}, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lorica.demo.measure", description=__doc__)
    parser.add_argument("--model", help="folder of the model; the bundled one if left out")
    parser.add_argument("--pictures", type=int, default=200, help="pictures for each of the two groups")
    parser.add_argument("--single", action="store_true", help="only single figures without stripes or outline")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--scheduler", default=SCHEDULER)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    return parser


if __name__ == "__main__":
    main()
