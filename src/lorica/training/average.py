"""The running mean of the adapter over the steps, which is often better than where the last step left it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """``mean += (1 - d) (value - mean)`` with ``d = min(decay, (1 + n) / (10 + n))`` after step ``n``.

    (Polyak and Juditsky 1992; the rising start is that of diffusers, so that first values are soon forgotten.)

    Args:
        parameters: what is averaged, by name.
        decay: how much of the mean stays at a step.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = dict(parameters), decay
        self._means = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the values after ``step`` steps."""
        kept = min(self._decay, (1 + step) / (10 + step))
        for name, mean in self._means.items():
            mean.lerp_(self._parameters[name].detach(), 1 - kept)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within the ``with`` block the parameters are the means."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def state(self) -> dict[str, Tensor]:
        """Return the means by name."""
        return {name: mean.clone() for name, mean in self._means.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` returned."""
        for name, mean in self._means.items():
            mean.copy_(state[name])

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, mean in self._means.items():
            value = self._parameters[name].detach()
            before = value.clone()
            value.copy_(mean)
            mean.copy_(before)
