"""Changes without thin factors, on one layer: whole weights and biases, stacked, with a strength for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar, cast

import torch
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn
from torch.nn import functional as F

from lorica.adapters.operation import operate
from lorica.runtime.bank.acting import Acting
from lorica.runtime.bank.products import along, is_channels_second
from lorica.runtime.bank.thin import NOBODY, NOTHING, Slot
from lorica.runtime.model.supported_layers import lacks_batch
from lorica.runtime.pipeline.batch import for_batch


class Stack(ABC):
    """The changes that several adapters make to one tensor of a layer: ``values`` ``(K, *shape)``.

    ``strength`` is ``(1 or samples, K)``. A Stack is never edited: :meth:`edited` returns another.
    """

    reserved: ClassVar[bool] = False

    def __init__(self, values: Tensor, names: Collection[str]) -> None:
        self.values = values
        self.slots = {name: Slot(place, place + 1, 1.0) for place, name in enumerate(names)}
        self.strength = NOTHING
        self.now = NOBODY

    @property
    def width(self) -> int:
        """How many adapters it holds."""
        return len(self.values)

    @property
    def room(self) -> int:
        """How many adapters there is room for: no more than it holds."""
        return len(self.values)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.values.device

    @property
    def _acting(self) -> list[int]:
        """The changes that an eager forward reads."""
        return [slot.start for name, slot in self.slots.items() if any(name in one for one in self.now.names)]

    def edited(self, gone: Collection[str], new: Mapping[str, Tensor]) -> Stack:
        """Return the same without some adapters and with others."""
        kept = {name: self.values[slot.start] for name, slot in self.slots.items() if name not in gone}
        every = {**kept, **new}
        parts = [part.to(self.values.device, self.values.dtype) for part in every.values()]
        return type(self)(torch.stack(parts) if parts else self.values[:0], every)

    def forward(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return ``y``, the layer's own output for ``x``, with what the changes add."""
        if lacks_batch(layer, y):
            return self.forward(layer, x[None], y[None])[0]
        acting = range(self.width) if torch.compiler.is_compiling() else self._acting
        if not acting:
            return y
        strength = for_batch(self.strength, len(x), self.now.guidance)
        return y + self._change(layer, x, y, strength, acting)

    def each(self, layer: nn.Module, x: Tensor, y: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield of each adapter that acts its name, its strengths ``(1 or batch, 1)`` and its change at strength 1."""
        strength = for_batch(self.strength, len(x), self.now.guidance)
        for name, slot in self.slots.items():
            if slot.start in self._acting:
                column = strength[:, slot.start : slot.stop]
                yield name, column, self._change(layer, x, y, torch.ones_like(self.strength[:1]), [slot.start])

    @abstractmethod
    def _change(self, layer: nn.Module, x: Tensor, y: Tensor, strength: Tensor, acting: Collection[int]) -> Tensor:
        """Return what these columns add to ``y``."""

    def link(self, strength: Tensor, now: Acting) -> None:
        """Take the strengths from this tensor from now on, and look there who acts."""
        self.strength, self.now = strength, now

    def moved(self, move: Callable[[Tensor], Tensor]) -> None:
        """Follow a move or cast of the layer in place."""
        values = move(self.values)
        self.values = values if values.element_size() >= 2 else self.values.to(values.device)
        self.strength, self.now.moved = self.strength.to(values.device), True

    def copy(self) -> Stack:
        """Return one that shares no memory with this."""
        twin = type(self)(self.values.clone(), self.slots)
        twin.link(self.strength.clone(), replace(self.now))
        return twin


class Weights(Stack):
    """Changes of a weight: the layer's own operation with ``sum of strength * delta`` in the place of its weight."""

    def _change(self, layer: nn.Module, x: Tensor, y: Tensor, strength: Tensor, acting: Collection[int]) -> Tensor:
        if len(strength) == 1:
            total = sum(
                (self.values[place] * strength[0, place] for place in acting), start=torch.zeros((), device=y.device)
            )
            return _operated(layer, x, total).to(y.dtype)
        change = torch.zeros_like(y)
        for place in acting:
            rows = strength[:, place].view(-1, *[1] * (y.ndim - 1))
            change = change + (_operated(layer, x, self.values[place]) * rows).to(y.dtype)
        return change


class Biases(Stack):
    """Changes of a bias: ``sum of strength * change`` at every point."""

    def _change(self, layer: nn.Module, x: Tensor, y: Tensor, strength: Tensor, acting: Collection[int]) -> Tensor:
        del x
        places = list(acting)
        rows = strength[:, places] @ self.values[places].float()  # (1 or b, out)
        return cast("Tensor", along(rows, y.ndim, last=not is_channels_second(layer))).to(y.dtype)


def _operated(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """Return what a layer gives for ``x`` with another weight and no bias."""
    if isinstance(layer, RMSNorm):
        return F.rms_norm(x.float(), tuple(layer.dim), weight.float(), layer.eps)
    result = operate(layer, x, weight)
    if result is None:
        raise TypeError(type(layer).__name__)  # unreachable: what is served is checked when an adapter is loaded
    return result
