"""The optimizer with a learning rate that is a function of the step, over one flat parameter a component."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor, nn

from lorica.runtime.trainable.norms import apply_rates, element_rates
from lorica.training.config.config import RunConfig
from lorica.training.optimizer_state import pack, settings_of, unpack
from lorica.training.optimizers import make_optimizer, steps_elements


class Optimizer:
    """Any optimizer with one learning rate a group and one schedule for all.

    Args:
        parameters: what it changes, by component; their gradients stay where they are.
        rates: the learning rate of each component.
        config: the optimizer, its settings and the schedule.
        steps: how many steps the whole run has.
        pieces: the factors by name, views of ``parameters``, for optimizers that care for shapes.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        rates: Mapping[str, float],
        config: RunConfig,
        steps: int,
        pieces: Mapping[str, nn.Parameter] | None = None,
    ) -> None:
        self._rates = dict(rates)
        self._share = schedule(config, steps)
        self._parameters = dict(parameters)
        self._element_rates: dict[str, Tensor] = {}
        flat = pieces is None or steps_elements(config.optimizer)
        self._held: dict[str, nn.Parameter] = dict(parameters if flat else pieces or {})
        groups = [{"params": self._members(name), "lr": rates[name]} for name in parameters]
        self.inner = make_optimizer(config, groups)
        self._first = settings_of(self.inner)

    def set_element_rates(self, pieces: Mapping[str, Tensor], rate: Callable[[str], float]) -> None:
        """Give single factors a share of the learning rate of their own, by name."""
        self._element_rates = {name: element_rates(flat, pieces, rate) for name, flat in self._parameters.items()}

    @contextmanager
    def element_rates(self) -> Iterator[None]:
        """Make the step that is done within the ``with`` block as long as the rates of single factors say."""
        before = {name: self._parameters[name].detach().clone() for name in self._element_rates}
        yield
        for name, rates in self._element_rates.items():
            apply_rates(self._parameters[name].data, before[name], rates)

    def set_rates(self, step: int) -> float:
        """Set the learning rates of one step, counted from 0; return that of the first group."""
        share = self._share(step)
        for group, rate in zip(self.inner.param_groups, self._rates.values(), strict=True):
            group["lr"] = rate * share
        return next(iter(self._rates.values())) * share

    def clip(self, longest: float) -> Tensor:
        """Shorten the gradient, all components as one vector, to ``longest``; return the length it had, a scalar."""
        return nn.utils.clip_grad_norm_(list(self._parameters.values()), longest)

    def clear(self) -> None:
        """Set the gradients to zero in place."""
        for parameter in self._parameters.values():
            cast("Tensor", parameter.grad).zero_()

    def state(self) -> dict[str, Tensor]:
        """Return what the optimizer remembers by name, ``GROUP/exp_avg`` and so on; empty before the first step."""
        return pack(self.inner, self._held, self._first)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` returned."""
        unpack(self.inner, self._held, state)

    def _members(self, component: str) -> list[nn.Parameter]:
        return [held for name, held in self._held.items() if name.split("/", 1)[0] == component]


def schedule(config: RunConfig, steps: int) -> Callable[[int], float]:
    """Return the share of the learning rate at each step, from diffusers' schedules."""
    nobody = torch.optim.SGD([torch.zeros(1)], lr=config.learning_rate)  # a schedule wants an optimizer to hold
    scheduler = get_scheduler(
        config.lr_scheduler,
        nobody,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=steps,
        num_cycles=config.lr_num_cycles,
        power=config.lr_power,
    )
    return scheduler.lr_lambdas[0]
