"""The one training loop. Everything random in a step is a function of the seed and the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from lorica.data.masks import stack_areas
from lorica.errors import TrainingError
from lorica.rng import generator
from lorica.runtime.trainable.trainable import Trainable
from lorica.training.average import Average
from lorica.training.config.objective import ObjectiveSettings
from lorica.training.dataset.dataset import Dataset
from lorica.training.device import autocast
from lorica.training.objective.losses import Batch, sample_losses
from lorica.training.objective.noise import draw_noise, perturb
from lorica.training.optimizer import Optimizer
from lorica.training.plan import RunPlan
from lorica.training.recipes.recipe import Recipe


@dataclass(frozen=True, slots=True)
class StepReport:
    """Figures of one step.

    Args:
        step: number of steps that are done now.
        loss: the mean over every sample of the step, on all processes.
        gradient_norm: norm of the gradient before it was clipped.
        learning_rate: that of the first component.
        stop: whether a process was asked to stop.
        validation_loss: loss on the pictures that are held out, if it was measured after this step.
        samples: of each sample the number of its picture, its noise level, and its loss.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    stop: bool = False
    validation_loss: float | None = None
    samples: tuple[tuple[int, float, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Loop:
    """The parts of a run that a step works with.

    Args:
        scaler: the loss scaler of fp16, switched off otherwise.
        precision: that of the base model.
        seed: with the step, the source of everything random.
        longest: norm to which gradients are clipped.
        objective: noise and loss.
        unmasked: weight of a place where the mask is black.
        longest_change: limit of the norm of a layer's change, if there is one.
        average: the running mean of the adapter, if it is wanted.
    """

    recipe: Recipe
    dataset: Dataset
    trainable: Trainable
    optimizer: Optimizer
    plan: RunPlan
    accelerator: Accelerator
    scaler: torch.amp.GradScaler
    precision: torch.dtype
    seed: int
    longest: float
    objective: ObjectiveSettings
    unmasked: float = 0.0
    longest_change: float | None = None
    average: Average | None = None

    def run(self, first: int, stopping: Callable[[], bool]) -> Iterator[StepReport]:
        """Run the steps from ``first`` on, one each time the iterator is advanced.

        Raises:
            TrainingError: if a loss or gradient is not finite, with the step and the pictures. The step is not applied.
        """
        micro_batches = self.plan.micro_batches()
        for step in range(first, self.plan.steps):
            yield self._step(step, micro_batches, stop=stopping())

    def result(self) -> AbstractContextManager[None]:
        """Within the ``with`` block the adapter has the values that are written: the running mean, or as trained."""
        return nullcontext() if self.average is None else self.average.applied()

    def _step(self, step: int, micro_batches: Sequence[Sequence[int]], *, stop: bool) -> StepReport:
        row = self.dataset.row(step, self.plan, partial(generator, self.seed))
        times = self.recipe.sample_time(self.plan.size, generator(self.seed, step, "time"))
        losses = [self._backward(step, places, row, times) for places in micro_batches]
        loss, stopped, by_sample = self._share(losses, micro_batches, stop=stop)
        self.optimizer.set_rates(step)
        self.scaler.unscale_(self.optimizer.inner)
        norm = self.optimizer.clip(self.longest)
        facts = torch.cat([torch.stack([loss, norm, stopped]), by_sample]).tolist()
        if not self._is_finite(facts[0], facts[1]):
            raise TrainingError(self._complaint(step, facts[0], facts[1], self._suspects(row, micro_batches, losses)))
        with self.optimizer.element_rates():
            self.scaler.step(self.optimizer.inner)
        self.scaler.update()
        self.optimizer.clear()
        if self.longest_change is not None:
            self.trainable.limit_norms(self.longest_change)
        if self.average is not None:
            self.average.update(step + 1)
        seen = zip(row, times.tolist(), facts[3:], strict=True)
        samples = tuple((picture, time, float(f"{loss:.6g}")) for picture, time, loss in seen)
        return StepReport(step + 1, facts[0], facts[1], self.optimizer.rate(), stop=facts[2] > 0, samples=samples)

    def _backward(self, step: int, places: Sequence[int], row: Sequence[int], times: Tensor) -> Tensor:
        """Add the gradient of one micro-batch; return the loss of each sample, ``(b,)``."""
        device = self.accelerator.device
        batch = self._batch(step, places, row).to(device)
        sources = [generator(self.seed, step, f"caption/{place}") for place in places]
        conditioning = self.dataset.conditioning([row[place] for place in places], sources)
        on_device = {name: tensor.to(device) for name, tensor in conditioning.items()}
        self.trainable.set_dropout_key(f"{self.seed}/{step}/{places[0]}")
        with autocast(device.type, self.precision):
            time = times[list(places)].to(device)
            losses = sample_losses(self.recipe, batch, time, on_device, self.objective)
            loss = losses.mean()
        self.scaler.scale(loss / self.plan.accumulation).backward()
        return losses.detach()

    def _batch(self, step: int, places: Sequence[int], row: Sequence[int]) -> Batch:
        """Latents and noise of some places of a step. Each sample has generators of its own, whatever its batch."""
        picked = [self.dataset.draw(row[place], generator(self.seed, step, f"picture/{place}")) for place in places]
        shape, perturbation = picked[0].latents.shape, self.objective.input_perturbation
        drawn = [draw_noise(shape, self.objective, generator(self.seed, step, f"noise/{place}")) for place in places]
        mixed = [
            perturb(noise, perturbation, generator(self.seed, step, f"perturbation/{place}"))
            for noise, place in zip(drawn, places, strict=True)
            if perturbation
        ]
        return Batch(
            torch.stack([sample.latents for sample in picked]),
            torch.stack(drawn),
            torch.stack(mixed) if mixed else None,
            area=stack_areas([sample.mask for sample in picked], self.unmasked),
            sizes=torch.stack([sample.sizes for sample in picked]),
            counts=self.dataset.loss_weights([row[place] for place in places]),
        )

    def _share(
        self, losses: Sequence[Tensor], micro_batches: Sequence[Sequence[int]], *, stop: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Average gradients and loss over the processes.

        Returns:
            the loss, above 0 if any process is to stop, and the loss of each sample of all processes.
        """
        loss = torch.stack([part.mean() for part in losses]).mean()
        stopped = torch.tensor(float(stop), device=loss.device)
        by_sample = loss.new_zeros(self.plan.size)
        for places, part in zip(micro_batches, losses, strict=True):
            by_sample[list(places)] = part.to(loss.dtype)
        if self.plan.processes == 1:
            return loss, stopped, by_sample
        for parameter in self.trainable.parameters():
            gradient = cast("Tensor", parameter.grad)
            gradient.copy_(cast("Tensor", self.accelerator.reduce(gradient, "mean")))
        both = torch.cat([torch.stack([loss, stopped]), by_sample])
        shared = cast("Tensor", self.accelerator.reduce(both, "mean"))
        return shared[0], shared[1], shared[2:] * self.plan.processes

    def _is_finite(self, loss: float, norm: float) -> bool:
        """Whether a step may be applied; with fp16 the scaler skips a step whose gradient is infinite."""
        return math.isfinite(loss) and (math.isfinite(norm) or self.scaler.is_enabled())

    def _suspects(
        self, row: Sequence[int], micro_batches: Sequence[Sequence[int]], losses: Sequence[Tensor]
    ) -> list[str]:
        """Pictures of the micro-batches whose loss is not finite, or of all if each is."""
        bad = [
            places for places, loss in zip(micro_batches, losses, strict=True) if not math.isfinite(loss.sum().item())
        ]
        indices = dict.fromkeys(row[place] for places in bad or micro_batches for place in places)
        return [str(self.dataset.examples[index].item.path) for index in indices]

    def _complaint(self, step: int, loss: float, norm: float, suspects: Sequence[str]) -> str:
        return (
            f"step {step + 1} was not applied: its loss is {loss} and its gradient has length {norm}. "
            f"Pictures in it: {', '.join(suspects)}. "
            "Lower learning_rate, use bf16 in place of fp16, or look at these pictures; earlier checkpoints are intact."
        )
