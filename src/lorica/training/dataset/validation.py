"""The loss on pictures that are not trained on, with fixed noise and noise levels.

It is the plain squared error, whatever loss the run trains with, of the middle of each picture, whatever its cuts, told
its first caption with nothing dropped or shuffled. The latents are the mean of the autoencoder's distribution, and the
noise is a function of the picture's content alone. So two runs that hold out the same pictures can be compared,
whatever their seeds, batches and settings; only the base model and the resolution must be the same, and what the model
predicts.

Nothing here draws from a generator of the training, and the adapter is only read: training goes on bit for bit as if
nothing had been measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.runtime.trainable.random_keys import keyed_generator
from lorica.training.objective.losses import Batch, Objective, sample_losses
from lorica.training.recipes.evaluating import evaluating
from lorica.training.recipes.recipe import Conditioning, Recipe

PLAIN = Objective()


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One picture that is not trained on: latents ``(c, h, w)``, sizes ``(6,)``, what is told, and the noise's key."""

    latents: Tensor
    sizes: Tensor
    conditioning: Conditioning
    key: str


@dataclass(frozen=True, slots=True)
class Validation:
    """The pictures that are not trained on.

    Args:
        pictures: each of them.
        levels: at how many noise levels each is looked at, spread evenly over the whole schedule.
        every: steps between two measurements.
    """

    pictures: Sequence[HeldOut]
    levels: int
    every: int

    def is_due(self, step: int, last: int) -> bool:
        """Tell whether the loss is measured after ``step`` of ``last`` steps."""
        return step % self.every == 0 or step == last

    @torch.no_grad()
    def loss(self, recipe: Recipe, device: torch.device, precision: AbstractContextManager[None]) -> float:
        """Return the mean over all pictures and noise levels, with the adapter as it is now."""
        with evaluating(recipe.components.values()), precision:
            losses = [self._losses(recipe, picture, device) for picture in self.pictures]
        return torch.stack(losses).double().mean().item()

    def _losses(self, recipe: Recipe, picture: HeldOut, device: torch.device) -> Tensor:
        time = recipe.spread_time(self.levels)
        noises = [
            torch.randn(picture.latents.shape, generator=keyed_generator(f"validation/{picture.key}/{level}"))
            for level in range(self.levels)
        ]
        latents, sizes = picture.latents.expand(self.levels, -1, -1, -1), picture.sizes.expand(self.levels, -1)
        batch = Batch(latents, torch.stack(noises), sizes=sizes).to(device)
        told = {
            name: tensor.to(device).expand(self.levels, *tensor.shape) for name, tensor in picture.conditioning.items()
        }
        return sample_losses(recipe, batch, time.to(device), told, PLAIN, weighted=False)
