"""``lorica train --dry_run``: all that can be known of a run before it, and three steps of it, with nothing written."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

from accelerate import Accelerator

from lorica.data.batches import fill_buckets
from lorica.data.cache import Cache
from lorica.data.images import load_picture
from lorica.data.items import Item
from lorica.errors import DataError
from lorica.training.config.config import RunConfig
from lorica.training.dataset.frames import plan_frames
from lorica.training.dataset.holding_out import hold_out
from lorica.training.dataset.sources import collect_items, groups_of
from lorica.training.loop import Loop
from lorica.training.memory.estimate import Memory, estimate_memory
from lorica.training.plan import Plan
from lorica.training.progress import Reporter
from lorica.training.recipes.recipe import Recipe
from lorica.training.setup import (
    make_accelerator,
    plan_of,
    precision_of,
    prepare_dataset,
    prepare_loop,
    prepare_recipe,
    prepare_trainable,
    side_of,
)

STEPS = 3  # that are timed, after one that is not
ENCODED = 4  # pictures of each data set that are encoded for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What a run is going to be.

    Args:
        pictures: how many can be read, those that are held out included.
        refused: those that cannot be read, each with the reason.
        buckets: width, height and number of pictures of each frame; one entry without buckets.
        plan: the numbers of the run.
        epochs: how often it sees every picture.
        trained: how many numbers are trained, by component.
        memory: the estimate.
        seconds_a_step: the median of three.
        seconds: what all steps will take, and encoding the pictures before them.
    """

    pictures: int
    refused: dict[str, str]
    buckets: list[tuple[int, int, int]]
    plan: Plan
    epochs: float
    trained: dict[str, int]
    memory: Memory
    seconds_a_step: float
    seconds: float

    def facts(self) -> dict[str, object]:
        """Return everything by name, for ``--json``."""
        memory = {f"{name}_bytes": size for name, size in asdict(self.memory).items()}
        return {
            **asdict(self),
            "plan": {"steps": self.plan.steps, "samples_a_step": self.plan.size, "processes": self.plan.processes},
            "memory": {**memory, "peak_bytes": self.memory.peak},
        }

    def describe(self) -> str:
        """Return everything as text."""
        frames = ", ".join(f"{width}x{height}: {count}" for width, height, count in self.buckets)
        trained = ", ".join(f"{name} {count:,}" for name, count in self.trained.items())
        lines = [
            f"pictures   {self.pictures} found, {len(self.refused)} refused",
            *(f"           {name}: {reason}" for name, reason in self.refused.items()),
            f"frames     {frames}",
            f"steps      {self.plan.steps} of {self.plan.size} samples; every picture is seen {self.epochs:.1f} times",
            f"trained    {trained}",
            f"memory     {self.memory.describe()}",
            f"time       {self.seconds_a_step:.2f} s a step, {_readable_time(self.seconds)} in all",
            "Nothing was written.",
        ]
        return "\n".join(lines)


def rehearse(config: RunConfig, *, quiet: bool = False) -> Rehearsal:
    """Go through a run up to its first steps, and write nothing: no folder, no cache, no checkpoint.

    Raises:
        LoRAError: for what would stop the run, save pictures that cannot be read, which are listed.
    """
    config = config.model_copy(update={"report_to": None, "push_to_hub": False, "on_bad_image": "stop"})
    accelerator, reporter = make_accelerator(config), Reporter(quiet=quiet)
    found = collect_items(config, reporter)
    refused = {str(item.path): reason for item in found if (reason := _reason_against(item))}
    items = [item for item in found if str(item.path) not in refused]
    if not items:
        raise DataError(f"none of the {len(found)} pictures can be read; the first: {next(iter(refused.values()))}")
    items, _ = hold_out(config, items, Cache(None), reporter)
    recipe = prepare_recipe(config, accelerator)
    side = side_of(config, recipe)
    plan, buckets = _whole_plan(items, config, recipe, side, accelerator)
    memory = estimate_memory(config, recipe, accelerator, side)
    some = _some(items)
    started = time.perf_counter()
    dataset = prepare_dataset(some, recipe, config, accelerator, Reporter(quiet=True), Cache(None))
    encoding = (time.perf_counter() - started) / len(some) * len(items)
    recipe.release_encoders(keep_text=dataset.texts.is_open, keep_pictures=config.no_cache)
    trainable = prepare_trainable(config, recipe, precision_of(config, accelerator))
    few = config.model_copy(update={"max_train_steps": max(plan.steps, 1 + STEPS)})
    step = _seconds_a_step(prepare_loop(few, recipe, dataset, trainable, accelerator))
    trainable.detach()
    return Rehearsal(
        pictures=len(found) - len(refused),
        refused=refused,
        buckets=buckets,
        plan=plan,
        epochs=plan.steps / plan.epoch,
        trained={name: parameter.numel() for name, parameter in trainable.by_component().items()},
        memory=memory,
        seconds_a_step=step,
        seconds=step * plan.steps + encoding,
    )


def _reason_against(item: Item) -> str | None:
    """Return why a picture cannot be used, or None."""
    try:
        load_picture(item.read(), item.path)
    except DataError as error:
        return str(error)
    return None


def _whole_plan(
    items: Sequence[Item], config: RunConfig, recipe: Recipe, side: int, accelerator: Accelerator
) -> tuple[Plan, list[tuple[int, int, int]]]:
    """Return the plan of all pictures, and the frames that they are cut to with the number of each."""
    buckets, groups = plan_frames(items, config, side, recipe.multiple), groups_of(config, items)
    members = fill_buckets(buckets, [group.source for group in groups]) if buckets else None
    plan = plan_of(config, len(items), groups, members, accelerator)
    if buckets is None:
        return plan, [(side, side, len(items))]
    frames = sorted(buckets.frames)
    return plan, [(frame.width, frame.height, len(list(same))) for frame, same in groupby(frames)]


def _some(items: Sequence[Item]) -> list[Item]:
    """Return the first few pictures of each data set."""
    return [item for _, group in groupby(items, lambda item: item.group) for item in list(group)[:ENCODED]]


def _seconds_a_step(loop: Loop) -> float:
    steps, seconds = loop.run(0, lambda: False), list[float]()
    for _ in range(1 + STEPS):
        started = time.perf_counter()
        next(steps)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def _readable_time(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.1f} min" if minutes >= 1 else f"{seconds:.0f} s"
