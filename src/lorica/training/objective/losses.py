"""The loss of a step: noise a batch, predict, compare. With the distances that it can be measured by.

All distances are ``d^2`` where the error ``d`` is small against ``delta``, or ``d^2 / delta`` for the smooth L1, so
that a learning rate found with one of them serves the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lorica.training.config.objective import ObjectiveSettings
from lorica.training.recipes.recipe import Conditioning, Recipe

Distance = Callable[[Tensor, Tensor, Tensor], Tensor]  # predicted, target, delta (b,) to (b, ...)


def squared(predicted: Tensor, target: Tensor, delta: Tensor) -> Tensor:
    """``d^2``; ``delta`` has no part."""
    del delta
    return (predicted - target).square()


def huber(predicted: Tensor, target: Tensor, delta: Tensor) -> Tensor:
    """``d^2`` where ``|d| <= delta``, else ``delta * (2 |d| - delta)`` (Huber 1964, twice his equation)."""
    error, limit = (predicted - target).abs(), _along(delta, predicted)
    return torch.where(error <= limit, error.square(), limit * (2 * error - limit))


def smooth_l1(predicted: Tensor, target: Tensor, delta: Tensor) -> Tensor:
    """:func:`huber` over ``delta``: ``2 |d| - delta`` far out (Girshick 2015, arXiv:1504.08083)."""
    return huber(predicted, target, delta) / _along(delta, predicted)


def pseudo_huber(predicted: Tensor, target: Tensor, delta: Tensor) -> Tensor:
    """``2 delta (sqrt(d^2 + delta^2) - delta)``, smooth everywhere (Khrapov et al. 2024, arXiv:2403.16728)."""
    error, limit = (predicted - target).square(), _along(delta, predicted)
    # The same as the formula above, which would lose small errors to rounding.
    return 2 * limit * error / ((error + limit.square()).sqrt() + limit)


DISTANCES: dict[str, Distance] = {
    "mse": squared,
    "huber": huber,
    "smooth_l1": smooth_l1,
    "pseudo_huber": pseudo_huber,
}


def scheduled_delta(snr: Tensor, least: float) -> Tensor:
    """``(1 - least) / (1 + sigma)^2 + least`` with ``sigma = 1 / sqrt(snr)``, ``(b,)``.

    So the loss is the squared one at little noise, and near the absolute one at much noise, where outliers are
    (Khrapov et al. 2024, arXiv:2403.16728, the SNR schedule).
    """
    signal = snr.sqrt()
    return (1 - least) * (signal / (signal + 1)).square() + least  # 1 / (1 + 1 / signal), also at snr 0


def sample_means(losses: Tensor, weights: Tensor | None = None) -> Tensor:
    """One loss a sample: ``sum(weights * losses) / sum(weights)`` over its elements, ``(b, ...)`` to ``(b,)``.

    The divisor is the sum of the weights, not the area of the picture: a small mask does not mean a small loss. A
    sample whose weights are all 0 has loss 0.

    Args:
        losses: one an element, ``(b, c, h, w)``.
        weights: broadcast to that, such as ``(b, 1, h, w)``; None for equal ones.
    """
    if weights is None:
        return losses.flatten(1).mean(1)
    everywhere = weights.expand_as(losses).flatten(1)
    total = everywhere.sum(1)
    return (losses.flatten(1) * everywhere).sum(1) / total.clamp(min=torch.finfo(total.dtype).tiny)


class Batch(NamedTuple):
    """Latents and noise of some samples, and their weights.

    Args:
        latents: clean ones, ``(b, c, h, w)``.
        noise: the noise to predict, of the same shape.
        mixed: the noise of the model's input, where it is not ``noise`` itself.
        area: weight of each place, ``(b, 1, h, w)``; None for equal ones.
        counts: weight of each sample, ``(b,)``; None for equal ones.
        sizes: how each picture was cut, ``(b, 6)``, for models that are conditioned on it.
    """

    latents: Tensor
    noise: Tensor
    mixed: Tensor | None = None
    area: Tensor | None = None
    counts: Tensor | None = None
    sizes: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        latents, noise, *others = self
        return Batch(latents.to(device), noise.to(device), *(None if one is None else one.to(device) for one in others))


def sample_losses(
    recipe: Recipe,
    batch: Batch,
    time: Tensor,
    conditioning: Conditioning,
    settings: ObjectiveSettings,
    *,
    weighted: bool = True,
) -> Tensor:
    """One loss a sample, ``(b,)``.

    Args:
        recipe: the model.
        batch: latents and noise.
        time: the noise levels, ``(b,)``.
        conditioning: the encoded captions.
        settings: the distance.
        weighted: weight each sample by its noise level, as the recipe says.
    """
    noisy, target = recipe.corrupt(batch.latents, batch.noise, time)
    if batch.mixed is not None:
        noisy, _ = recipe.corrupt(batch.latents, batch.mixed, time)
    if batch.sizes is not None:
        conditioning = {**conditioning, "sizes": batch.sizes}
    predicted = recipe.predict(noisy, time, conditioning)
    delta = torch.full((len(target),), settings.huber_delta, device=target.device)
    if settings.huber_schedule == "snr":
        delta = scheduled_delta(recipe.signal_to_noise(time), settings.huber_delta)
    losses = sample_means(DISTANCES[settings.loss_type](predicted, target, delta), batch.area)
    for weights in (recipe.weigh(time) if weighted else None, batch.counts):
        losses = losses if weights is None else losses * weights
    return losses


def _along(delta: Tensor, like: Tensor) -> Tensor:
    """``(b,)`` or a scalar, shaped to broadcast to ``(b, ...)``."""
    return delta.view(-1, *[1] * (like.ndim - 1))
