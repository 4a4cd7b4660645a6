"""How a run is cut into steps, steps into micro-batches, and those among processes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lorica.data.batches import steps_per_epoch
from lorica.training.config.output import OutputSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """The numbers of a run.

    Args:
        steps: steps of the optimizer.
        batch: samples at once on one device.
        accumulation: micro-batches a step on one device.
        processes: number of processes.
        process: the number of this one.
        pictures: number of pictures.
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
        """Samples a step, on all processes."""
        return self.batch * self.accumulation * self.processes

    @property
    def epoch(self) -> int:
        """Steps that see every picture once."""
        if self.batches is not None:
            return steps_per_epoch(self.batches, self.parts)
        return steps_per_epoch(self.samples or self.pictures, self.size)

    @property
    def parts(self) -> int:
        """Micro-batches a step, on all processes."""
        return self.accumulation * self.processes

    def lasting(self, epochs: int) -> RunPlan:
        """The same plan with the steps of so many epochs."""
        return replace(self, steps=epochs * self.epoch)

    def micro_batches(self) -> list[list[int]]:
        """Places in a step's row of samples that this process works on, one list a micro-batch."""
        firsts = [(part * self.processes + self.process) * self.batch for part in range(self.accumulation)]
        return [list(range(first, first + self.batch)) for first in firsts]


def checkpoint_interval(settings: OutputSettings, plan: RunPlan) -> int:
    """Steps between checkpoints."""
    epochs = settings.checkpointing_epochs
    return settings.checkpointing_steps if epochs is None else epochs * plan.epoch
