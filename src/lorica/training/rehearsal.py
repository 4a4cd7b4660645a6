"""``lorica train --dry_run``: the plan of a run and the time of its first steps, with nothing written."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

from lorica.data.cache import Cache
from lorica.data.items import Item
from lorica.training import setup
from lorica.training.config.config import RunConfig
from lorica.training.config.optimizer import OptimizerSettings
from lorica.training.loop import Loop
from lorica.training.memory.estimate import Memory
from lorica.training.optimizer import warmup_steps
from lorica.training.plan import RunPlan
from lorica.training.progress import Reporter

STEPS = 3  # that are timed, after a first one that is not
ENCODED = 4  # pictures of each data set that are encoded for them


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """The plan of a run.

    Args:
        pictures: number of pictures that can be read, those that are held out included.
        refused: paths of the others, each with the reason.
        buckets: width, height and number of pictures of each frame; one entry without buckets.
        plan: steps and batches.
        epochs: how often the run sees every picture.
        trained: number of trained parameters, by component.
        memory: the estimate.
        seconds_a_step: the median of three.
        seconds: time of all steps, and of encoding the pictures before them.
    """

    pictures: int
    refused: dict[str, str]
    buckets: list[tuple[int, int, int]]
    plan: RunPlan
    epochs: float
    trained: dict[str, int]
    memory: Memory
    seconds_a_step: float
    seconds: float

    def facts(self) -> dict[str, object]:
        """Everything by name, for ``--json``."""
        memory = {f"{name}_bytes": size for name, size in asdict(self.memory).items()}
        return {
            **asdict(self),
            "plan": {"steps": self.plan.steps, "samples_a_step": self.plan.size, "processes": self.plan.processes},
            "memory": {**memory, "peak_bytes": self.memory.peak},
        }

    def describe(self) -> str:
        """Everything as text."""
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
    """Prepare a run and take its first steps without writing anything: no folder, no cache, no checkpoint.

    Raises:
        LoRAError: for what would stop the run, save pictures that cannot be read, which are listed.
    """
    config = config.model_copy(update={"report_to": None, "push_to_hub": False})
    accelerator, reporter, cache = setup.make_accelerator(config), Reporter(quiet=quiet), Cache(None)
    found = setup.find_inputs(config, accelerator, reporter, cache, lenient=True)
    for remark in setup.remarks_on(config, accelerator):
        reporter.say(remark)
    plan = setup.plan_for(config, found, accelerator)
    warmup_steps(config.part(OptimizerSettings), plan.steps)
    memory = setup.estimate(config, found.recipe, found.side, accelerator, found.initial)
    few = setup.with_items(config, found, _first_of_each_set(found.items))
    started = time.perf_counter()
    dataset = setup.prepare_dataset(config, few, accelerator, Reporter(quiet=True, logged=False), cache)
    encoding = (time.perf_counter() - started) / len(few.items) * len(found.items)
    longer = config.model_copy(update={"max_train_steps": max(plan.steps, 1 + STEPS)})
    loop = setup.prepare_loop(longer, found.recipe, dataset, accelerator, found.initial)
    step = _seconds_a_step(loop)
    loop.trainable.detach()
    held = len(found.held) if config.validation_split is not None else 0  # others lie in a folder of their own
    return Rehearsal(
        pictures=len(found.items) + held,
        refused=found.refused,
        buckets=_frames(found),
        plan=plan,
        epochs=plan.steps / plan.epoch,
        trained={name: parameter.numel() for name, parameter in loop.trainable.by_component().items()},
        memory=memory,
        seconds_a_step=step,
        seconds=step * plan.steps + encoding,
    )


def _frames(found: setup.RunInputs) -> list[tuple[int, int, int]]:
    """Width, height and number of pictures of each frame."""
    if found.frames is None:
        return [(found.side, found.side, len(found.items))]
    frames = sorted(found.frames.frames)
    return [(frame.width, frame.height, len(list(same))) for frame, same in groupby(frames)]


def _first_of_each_set(items: Sequence[Item]) -> list[Item]:
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
