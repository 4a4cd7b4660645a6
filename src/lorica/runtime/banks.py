"""The banks of one model: built completely, then put in; and the strengths written into them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lorica.runtime.bank import CHILD, Bank, factors_for
from lorica.runtime.plan import Place, Plan

Prepared = dict[Place, Bank | None]


class Banks:
    """Which layers hold a bank.

    Args:
        find: returns the layer at a place.
    """

    def __init__(self, find: Callable[[Place], nn.Module]) -> None:
        self._find = find
        self._banks: dict[Place, tuple[Bank, RemovableHandle]] = {}

    def prepare(self, places: Iterable[Place], plans: Mapping[str, Plan]) -> Prepared:
        """Return new banks for these places, which hold what ``plans`` has there. The model is not touched."""
        prepared: Prepared = {}
        for place in places:
            layer = self._find(place)
            factors = {name: factors_for(layer, plan[place]) for name, plan in plans.items() if place in plan}
            prepared[place] = Bank(layer, factors) if factors else None
        return prepared

    def commit(self, prepared: Prepared) -> None:
        """Put prepared banks in the place of what was there."""
        for place, bank in prepared.items():
            self._put(place, bank)
        _forget_compiled_graphs()

    def write(self, strengths: Mapping[str, Mapping[Place, float]], places: Iterable[Place] | None = None) -> None:
        """Set the strength of every adapter at these places (by default everywhere); those not named are off."""
        for place in self._banks if places is None else places:
            if place in self._banks:
                row = {name: values[place] for name, values in strengths.items() if place in values}
                self._banks[place][0].write(row)

    def _put(self, place: Place, bank: Bank | None) -> None:
        layer = self._find(place)
        if place in self._banks:
            self._banks.pop(place)[1].remove()
            delattr(layer, CHILD)
        if bank is not None:
            layer.add_module(CHILD, bank)
            self._banks[place] = (bank, layer.register_forward_hook(serve, with_kwargs=True))


def serve(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
    """Add what the layer's bank adds: the forward hook of every served layer."""
    return getattr(layer, CHILD)(args[0] if args else kwargs["input"], output)


def _forget_compiled_graphs() -> None:
    """Make compiled models look again: their guards do not notice a hook that was added to or taken from a module."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
