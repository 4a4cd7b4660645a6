"""How far a prediction is from its target, element by element, and the mean of that over a sample.

All distances are ``d^2`` where the error ``d`` is small against ``delta``, or ``d^2 / delta`` for the smooth L1, so
that a learning rate found with one of them serves the others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor, Tensor], Tensor]  # predicted, target, delta (b,) to (b, ...)


def squared(predicted: Tensor, target: Tensor, delta: Tensor) -> Tensor:
    """Return ``d^2``; ``delta`` has no part."""
    del delta
    return (predicted - target).square()


def huber(predicted: Tensor, target: Tensor, delta: Tensor) -> Tensor:
    """Return ``d^2`` where ``|d| <= delta``, else ``delta * (2 |d| - delta)`` (Huber 1964, twice his equation)."""
    error, limit = (predicted - target).abs(), _along(delta, predicted)
    return torch.where(error <= limit, error.square(), limit * (2 * error - limit))


def smooth_l1(predicted: Tensor, target: Tensor, delta: Tensor) -> Tensor:
    """Return :func:`huber` over ``delta``: ``2 |d| - delta`` far out (Girshick 2015, arXiv:1504.08083)."""
    return huber(predicted, target, delta) / _along(delta, predicted)


def pseudo_huber(predicted: Tensor, target: Tensor, delta: Tensor) -> Tensor:
    """Return ``2 delta (sqrt(d^2 + delta^2) - delta)``, smooth everywhere (Khrapov et al. 2024, arXiv:2403.16728).

    It is computed as ``2 delta d^2 / (sqrt(d^2 + delta^2) + delta)``, which does not lose small errors to rounding.
    """
    error, limit = (predicted - target).square(), _along(delta, predicted)
    return 2 * limit * error / ((error + limit.square()).sqrt() + limit)


DISTANCES: dict[str, Distance] = {
    "mse": squared,
    "huber": huber,
    "smooth_l1": smooth_l1,
    "pseudo_huber": pseudo_huber,
}


def scheduled_delta(snr: Tensor, least: float) -> Tensor:
    """Return ``(1 - least) / (1 + sigma)^2 + least`` with ``sigma = 1 / sqrt(snr)``, ``(b,)``.

    So the loss is the squared one at little noise, and near the absolute one at much noise, where outliers show
    (Khrapov et al. 2024, arXiv:2403.16728, the SNR schedule).
    """
    signal = snr.sqrt()
    return (1 - least) * (signal / (signal + 1)).square() + least  # 1 / (1 + 1 / signal), which knows snr 0


def sample_means(losses: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return one loss a sample: ``sum(weights * losses) / sum(weights)`` over its elements, ``(b, ...)`` to ``(b,)``.

    The sum of the weights, not the area of the picture, is what it is divided by: a small mask does not mean a small
    loss. A sample whose weights are all 0 has loss 0.

    Args:
        losses: one an element, ``(b, c, h, w)``.
        weights: what broadcasts to that, such as ``(b, 1, h, w)``; None stands for equal ones.
    """
    if weights is None:
        return losses.flatten(1).mean(1)
    everywhere = weights.expand_as(losses).flatten(1)
    total = everywhere.sum(1)
    return (losses.flatten(1) * everywhere).sum(1) / total.clamp(min=torch.finfo(total.dtype).tiny)


def _along(delta: Tensor, like: Tensor) -> Tensor:
    """Return ``(b,)`` or a scalar shaped to go with ``(b, ...)``."""
    return delta.view(-1, *[1] * (like.ndim - 1))
