"""What a step lessens: noise a batch, predict, compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lorica.training.objective.distances import DISTANCES, sample_means, scheduled_delta
from lorica.training.objective.noise import NoiseSettings
from lorica.training.recipes.recipe import Conditioning, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """How samples are noised and how far a prediction is from its target.

    Args:
        noise: what is done to the noise.
        distance: a name in ``DISTANCES``.
        delta: where the distances other than the squared one become straight.
        unmasked: how much a place counts where its mask is black.
        scheduled: let ``delta`` rise from that to 1 as the noise falls (:func:`scheduled_delta`).
    """

    noise: NoiseSettings = field(default_factory=NoiseSettings)
    distance: str = "mse"
    delta: float = 0.1
    unmasked: float = 0.0
    scheduled: bool = False


class Batch(NamedTuple):
    """What is compared, and how much it counts.

    Args:
        latents: clean ones, ``(b, c, h, w)``.
        noise: the noise to find again, of the same shape.
        mixed: the noise that is mixed in, where it is not ``noise`` itself.
        area: how much each place counts, ``(b, 1, h, w)``; None for all alike.
        counts: how much each sample counts, ``(b,)``; None for all alike.
        sizes: how each picture was cut, ``(b, 6)``, for models that are told.
    """

    latents: Tensor
    noise: Tensor
    mixed: Tensor | None = None
    area: Tensor | None = None
    counts: Tensor | None = None
    sizes: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Move everything to a device."""
        latents, noise, *others = self
        return Batch(latents.to(device), noise.to(device), *(None if one is None else one.to(device) for one in others))


def sample_losses(
    recipe: Recipe,
    batch: Batch,
    time: Tensor,
    conditioning: Conditioning,
    objective: Objective,
    *,
    weighted: bool = True,
) -> Tensor:
    """Noise one batch, predict, compare. Returns one loss a sample, ``(b,)``.

    Args:
        recipe: the model.
        batch: latents and noise.
        time: the noise levels, ``(b,)``.
        conditioning: what the model is told.
        objective: how far a prediction is from its target.
        weighted: weigh each sample by its noise level, as the recipe says.
    """
    noisy, target = recipe.corrupt(batch.latents, batch.noise, time)
    if batch.mixed is not None:
        noisy, _ = recipe.corrupt(batch.latents, batch.mixed, time)
    told = conditioning if batch.sizes is None else {**conditioning, "sizes": batch.sizes}
    predicted = recipe.predict(noisy, time, told)
    delta = torch.full((len(target),), objective.delta, device=target.device)
    if objective.scheduled:
        delta = scheduled_delta(recipe.signal_to_noise(time), objective.delta)
    losses = sample_means(DISTANCES[objective.distance](predicted, target, delta), batch.area)
    for weights in (recipe.weigh(time) if weighted else None, batch.counts):
        losses = losses if weights is None else losses * weights
    return losses
