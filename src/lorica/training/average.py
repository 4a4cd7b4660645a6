"""The running mean of the adapter over the steps (EMA), often better than the last step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """``mean += (1 - d) (value - mean)`` with ``d = min(decay, (1 + n) / (10 + n))`` after step ``n``.

    (Polyak and Juditsky 1992; the rising decay is that of diffusers, so that first values are soon forgotten.)

    Args:
        parameters: the parameters that are averaged, by name.
        decay: share of the mean that stays at a step.
    """

    # Not torch's AveragedModel: it keeps a counter that would have to be restored, where the step is known, begins with
    # the first update in place of the first values, and has no way to put the means into the parameters, of which the
    # layers hold views.

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = dict(parameters), decay
        self._means = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def update(self, step: int) -> None:
        """Update the means after ``step`` steps."""
        kept = min(self._decay, (1 + step) / (10 + step))
        for name, mean in self._means.items():
            mean.lerp_(self._parameters[name].detach(), 1 - kept)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swap the means into the parameters within the ``with`` block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """The means by name."""
        return {name: mean.clone() for name, mean in self._means.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned."""
        for name, mean in self._means.items():
            mean.copy_(state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, mean in self._means.items():
            value = self._parameters[name].detach()
            before = value.clone()
            value.copy_(mean)
            mean.copy_(before)
