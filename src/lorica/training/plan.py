"""How a run is cut into steps, steps into micro-batches, and those among processes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lorica.data.batches import steps_per_epoch
from lorica.training.config.config import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The numbers of a run.

    Args:
        steps: steps of the optimizer.
        batch: samples at once on one device.
        accumulation: micro-batches a step on one device.
        processes: how many there are.
        process: the number of this one.
        pictures: how many pictures there are.
        batches: micro-batches that see every picture, on all processes, if those are made of buckets.
        samples: samples of an epoch, if that is not each picture once.
    """

    steps: int
    batch: int
    accumulation: int
    processes: int
    process: int
    pictures: int
    batches: int | None = None
    samples: int | None = None

    @property
    def size(self) -> int:
        """How many samples a step sees, on all processes."""
        return self.batch * self.accumulation * self.processes

    @property
    def epoch(self) -> int:
        """How many steps see every picture once."""
        if self.batches is not None:
            return steps_per_epoch(self.batches, self.parts)
        return steps_per_epoch(self.samples or self.pictures, self.size)

    @property
    def parts(self) -> int:
        """How many micro-batches a step has, on all processes."""
        return self.accumulation * self.processes

    def micro_batches(self) -> list[list[int]]:
        """Return the places in a step's row of samples that this process works on, one list a micro-batch."""
        firsts = [(part * self.processes + self.process) * self.batch for part in range(self.accumulation)]
        return [list(range(first, first + self.batch)) for first in firsts]


def make_plan(
    config: RunConfig,
    pictures: int,
    processes: int,
    process: int,
    *,
    batches: int | None = None,
    samples: int | None = None,
) -> Plan:
    """Return the plan of a run; without ``max_train_steps`` it lasts ``num_train_epochs``."""
    plan = Plan(
        steps=config.max_train_steps or 0,
        batch=config.train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        processes=processes,
        process=process,
        pictures=pictures,
        batches=batches,
        samples=samples,
    )
    return plan if plan.steps else replace(plan, steps=config.num_train_epochs * plan.epoch)
