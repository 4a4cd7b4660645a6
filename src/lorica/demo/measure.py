"""Accuracy of a base model of the bundled kind: the share of its pictures that show what the caption says.

``python -m lorica.demo.measure [--model FOLDER] [--pictures 200]``
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from lorica.demo.bundle import bundled_model
from lorica.demo.captions import caption, random_scene
from lorica.demo.drawing import Scene
from lorica.demo.score import Reading, read_picture
from lorica.generating.run import prepare_pipeline
from lorica.generating.sampling import SamplingSettings, Shot, count_steps, sample
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
    """A scene that was asked for, and the reading of its picture."""

    scene: Scene
    reading: Reading

    @property
    def right(self) -> bool:
        """Whether shape, colour, background and the number of figures are as asked."""
        return self.reading.shows(self.scene) and self.reading.count == len(self.scene.centers)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of pictures that are right: in everything, and in each single property."""

    pictures: int
    right: float
    shape: float
    color: float
    background: float
    count: float


def scenes_to_ask(count: int, *, unseen: bool, single: bool, seed: int = SEED) -> list[Scene]:
    """Scenes of a measurement: the same for the same arguments."""
    rng = random.Random(f"{seed}/{unseen}/{single}")
    return [random_scene(rng, unseen=unseen, single=single) for _ in range(count)]


def try_scenes(
    pipeline: Any,
    scenes: Sequence[Scene],
    settings: SamplingSettings,
    *,
    seed: int = SEED,
    advance: Callable[[], None] | None = None,
) -> list[Trial]:
    """Trials of scenes: each is asked for by its caption, picture ``k`` from ``seed + k``, and the picture is read."""
    shots = [Shot(caption(scene), seed + index) for index, scene in enumerate(scenes)]
    pictures = sample(pipeline, shots, settings, advance=advance)
    return [Trial(scene, read_picture(picture)) for scene, picture in zip(scenes, pictures, strict=True)]


def accuracy_of(trials: Sequence[Trial]) -> Accuracy:
    """Shares of trials that are right."""

    def share(test: Callable[[Trial], bool]) -> float:
        return round(sum(map(test, trials)) / len(trials), 4)

    return Accuracy(
        pictures=len(trials),
        right=share(lambda trial: trial.right),
        shape=share(lambda trial: trial.reading.shape == trial.scene.shape),
        color=share(lambda trial: trial.reading.color == trial.scene.color),
        background=share(lambda trial: trial.reading.background == trial.scene.background),
        count=share(lambda trial: trial.reading.count == len(trial.scene.centers)),
    )


def breakdown(trials: Sequence[Trial], by: Callable[[Scene], str]) -> dict[str, str]:
    """``right/asked`` for each value of a property of the scene."""
    asked = Counter(by(trial.scene) for trial in trials)
    right = Counter(by(trial.scene) for trial in trials if trial.right)
    return {name: f"{right[name]}/{asked[name]}" for name in sorted(asked)}


def measure(
    model: str | Path, pictures: int, settings: SamplingSettings, *, scheduler: str = SCHEDULER, single: bool = False
) -> dict[str, list[Trial]]:
    """Trials of each group: pairs of shape and colour that training saw, and pairs that it never saw."""
    pipeline = prepare_pipeline(str(model), dtype="float32")
    use_scheduler(pipeline, scheduler)
    trials: dict[str, list[Trial]] = {}
    with Reporter().progress("measuring", len(GROUPS) * count_steps(pictures, settings)) as advance:
        for group, unseen in GROUPS.items():
            scenes = scenes_to_ask(pictures, unseen=unseen, single=single)
            trials[group] = try_scenes(pipeline, scenes, settings, advance=advance)
    return trials


def summary(trials: Mapping[str, Sequence[Trial]]) -> dict[str, Any]:
    """Figures of a measurement, ready for JSON."""
    return {
        group: {
            **asdict(accuracy_of(found)),
            "target": TARGETS[group],
            "by_shape": breakdown(found, lambda scene: scene.shape),
            "by_color": breakdown(found, lambda scene: scene.color),
            "by_background": breakdown(found, lambda scene: scene.background),
            "by_kind": breakdown(found, kind_of),
        }
        for group, found in trials.items()
    }


def kind_of(scene: Scene) -> str:
    """Size and pattern, or the number of figures."""
    return f"{len(scene.centers)} figures" if len(scene.centers) > 1 else f"{scene.size} {scene.pattern}"


def table_of(figures: Mapping[str, Any]) -> Table:
    """Figures as a table for the terminal."""
    table = Table("pairs", "pictures", "right", "target", "shape", "colour", "background", "count")
    for group, row in figures.items():
        shares = (f"{row[name]:.1%}" for name in ("right", "target", "shape", "color", "background", "count"))
        table.add_row(group, str(row["pictures"]), *shares)
    return table


@click.command()
@click.option("--model", type=click.Path(path_type=Path), help="Folder of the model; the bundled one if left out.")
@click.option("--pictures", default=200, show_default=True, help="Pictures for each of the two groups.")
@click.option("--single", is_flag=True, help="Only single figures without stripes or outline.")
@click.option("--steps", default=STEPS, show_default=True, help="Denoising steps.")
@click.option("--guidance", default=GUIDANCE, show_default=True, help="Guidance scale.")
@click.option("--scheduler", default=SCHEDULER, show_default=True, help="Scheduler.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON file for the figures.")
def command(
    model: Path | None, pictures: int, single: bool, steps: int, guidance: float, scheduler: str, output: Path | None
) -> None:
    """Measure a base model of the bundled kind, print the figures, and write them as JSON."""
    settings = SamplingSettings(steps=steps, guidance=guidance, batch_size=BATCH)
    figures = summary(measure(model or bundled_model(), pictures, settings, scheduler=scheduler, single=single))
    console = Console()
    console.print(table_of(figures))
    for group, row in figures.items():
        for name in ("by_kind", "by_shape", "by_color", "by_background"):
            console.print(f"{group}, {name}: " + ", ".join(f"{key} {value}" for key, value in row[name].items()))
    if output:
        facts = {"steps": steps, "guidance": guidance, "scheduler": scheduler, "seed": SEED}
        output.write_text(json.dumps({**facts, **figures}, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """Run the measurement with the arguments of a command line."""
    command.main(list(arguments), standalone_mode=False)


if __name__ == "__main__":
    command(prog_name="python -m lorica.demo.measure")
