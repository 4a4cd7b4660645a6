"""Low-rank adapters on one layer, stacked along the rank: any number of them costs two thin products.

``y = layer(x) + ((x . down^T) * strength) . up^T``
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lorica.adapters import Factors
from lorica.errors import StateError
from lorica.runtime.bank.acting import Acting
from lorica.runtime.bank.roads import Road, Slot, Stacked, change_with_rows
from lorica.runtime.bank.rows import Rows
from lorica.runtime.filling import Filling, Home

# How many times the rows that two adapters need are set aside when a second one comes. On the CPU, memory that nothing
# was written to costs nothing, and a later adapter then needs no copy of those before it; on a device a copy is quick.
ROOM = {"cpu": 4}

NEVER = -1  # no version of a tensor
NOTHING = torch.zeros(1, 0, dtype=torch.float32, device="cpu")  # the strengths of what was never linked
NOBODY = Acting()


class Window(NamedTuple):
    """Rows that follow each other, the number of the first, and their strengths."""

    first: int
    down: Tensor
    up: Tensor
    strength: Tensor


class Thin:
    """Stacked factors: ``down`` ``(C, in, *kernel)`` and ``up`` ``(C, out)``, of which ``width`` rows are read.

    ``strength`` is ``(1 or samples, width)`` in float32, and holds each adapter's ``alpha / r`` already. A Thin is
    never edited: :meth:`edited` returns another, which shares the memory as far as there is room.

    Args:
        down: as above.
        up: as above.
        slots: the rows of each adapter.
        width: how many rows a compiled graph reads; an eager forward reads those that act.
        reserved: whether ``width`` stays what it is whatever is loaded.
    """

    __slots__ = (
        "_acting",
        "_road",
        "_seen",
        "_stacked",
        "down",
        "now",
        "reserved",
        "slots",
        "strength",
        "up",
        "width",
    )

    def __init__(self, down: Tensor, up: Tensor, slots: Mapping[str, Slot], width: int, *, reserved: bool) -> None:
        self.down, self.up, self.width, self.reserved = down, up, width, reserved
        self.slots = slots
        self.strength = NOTHING
        self.now = NOBODY
        self._seen = NEVER  # the version of the strengths that what follows was made for
        self._acting: Rows | None = None
        self._stacked: Stacked | None = None
        self._road: Road | None = None

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Thin:
        """Return one without any adapters, for a weight of this shape."""
        out, *rest = shape
        down = torch.empty(0, *rest, dtype=dtype, device=device)
        return cls(down, torch.empty(0, out, dtype=dtype, device=device), {}, 0, reserved=False)

    @classmethod
    def of(cls, name: str, part: Factors, shape: tuple[int, ...], home: Home, filling: Filling) -> Thin:
        """Return one with a single adapter, as most are, and no more rows than it needs."""
        rank = part.down.shape[0]
        down, up = filling.rows(shape, rank, home)
        filling.copy(down, part.down if part.down.ndim == down.ndim else part.down.reshape(down.shape))
        filling.copy(up.t(), part.up)
        return cls(down, up, {name: Slot(0, rank, part.scaling)}, rank, reserved=False)

    @property
    def room(self) -> int:
        """How many rows there are, used or not."""
        return len(self.down)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.down.device

    def edited(self, gone: Collection[str], new: Mapping[str, Factors], filling: Filling) -> Thin:
        """Return the same without some adapters and with others, whose factors are there when ``filling`` is finished.

        Rows that are in use are not touched, so this one goes on working as it is.

        Raises:
            StateError: if a reservation is too small.
        """
        slots = self.placed(gone, new)
        needed = max((slot.stop for slot in slots.values()), default=0)
        if self.reserved and needed > self.width:
            raise StateError(f"it needs {needed} rows, and {self.width} are reserved.")
        if needed > len(self.down) and self.slots and self.slots.keys() <= set(gone):  # all are others from now on
            return self._empty().edited((), new, filling)
        down, up = (self.down, self.up) if needed <= len(self.down) else self._grown(needed, filling)
        thin = Thin(down, up, slots, self.width if self.reserved else needed, reserved=self.reserved)
        thin.overwrite(new, filling)
        return thin

    def exchanged(self, others: Mapping[str, Factors]) -> Thin | None:
        """Return the same for when others have the rows of the adapters of their names; None if they need more or less.

        The rows still hold what they held until :meth:`overwrite`.
        """
        if any(part.down.shape[0] != self.slots[name].stop - self.slots[name].start for name, part in others.items()):
            return None
        slots = {
            name: replace(slot, scaling=others[name].scaling) if name in others else slot
            for name, slot in self.slots.items()
        }
        return Thin(self.down, self.up, slots, self.width, reserved=self.reserved)

    def overwrite(self, others: Mapping[str, Factors], filling: Filling) -> None:
        """Write factors into the rows of the adapters of their names, when ``filling`` is finished."""
        for name, part in others.items():
            slot = self.slots[name]
            down, up = self.down[slot.start : slot.stop], self.up[slot.start : slot.stop]
            filling.copy(down, part.down if part.down.ndim == down.ndim else part.down.reshape(down.shape))
            filling.copy(up.t(), part.up)

    def placed(self, gone: Collection[str], new: Mapping[str, Factors]) -> dict[str, Slot]:
        """Return the rows of every adapter after some went and others came; rows in use are not given away."""
        slots = {name: slot for name, slot in self.slots.items() if name not in gone}
        for name, part in new.items():
            start = _free_rows(len(part.down), (*self.slots.values(), *slots.values()))
            slots[name] = Slot(start, start + len(part.down), part.scaling)
        return slots

    def with_room(self, rank: int) -> Thin:
        """Return the same with at least this many rows, and never another number of them."""
        width = max(rank, self.width)
        down, up = self.down.new_zeros(width, *self.down.shape[1:]), self.up.new_zeros(width, self.up.shape[1])
        down[: self.width].copy_(self.down[: self.width])
        up[: self.width].copy_(self.up[: self.width])
        return Thin(down, up, self.slots, width, reserved=True)

    def clear_what_left(self, before: Thin) -> None:
        """Zero the rows of adapters that were in ``before`` and left a hole: a hole is read, at strength 0."""
        for name, slot in before.slots.items():
            now = self.slots.get(name)
            if (now is None or now.start != slot.start) and slot.start < self.width:
                self.down[slot.start : slot.stop].zero_()
                self.up[slot.start : slot.stop].zero_()

    def acts(self) -> bool:
        """Tell whether any row acts; a compiled graph reads all rows, whether they do or not."""
        if torch.compiler.is_compiling():
            return True
        if self._seen != self.strength._version:  # it was written to, or is another tensor
            self._look()
        return self._acting is not None

    def forward(self, layer: nn.Module, x: Tensor, y: Tensor, *, in_place: bool) -> Tensor:
        """Return ``y``, the layer's own output for ``x``, with what the adapters add.

        Args:
            layer: what it serves.
            x: the layer's input.
            y: the layer's output.
            in_place: whether ``y`` may be written to, and no gradients are wanted.
        """
        if y.ndim < self.down.ndim:  # one sample, without the axis of a batch
            return self.forward(layer, x[None], y[None], in_place=in_place)[0]
        if torch.compiler.is_compiling():
            rows = self.down[: self.width], self.up[: self.width]
            return change_with_rows(layer, x, y, *rows, self.strength, self.now.guidance)
        if self._seen == NEVER:  # it was moved
            self._look()
        acting = cast("Rows", self._acting)
        if not in_place or x.dtype is not y.dtype or x.dtype is not self.down.dtype:
            self._stacked = self._stacked or acting.stacked()
            return self._stacked.change(layer, x, y)
        self._road = self._road or acting.best(layer, y)
        return self._road.add(layer, x, y)

    def _look(self) -> None:
        """Note which rows act. Of strengths on another device than the CPU only the names are known without waiting."""
        known = self.strength.tolist() if self.strength.device.type == "cpu" else None
        samples: list[dict[Slot, float | None]] = []
        for sample, names in enumerate(self.now.names):
            slots = [self.slots[name] for name in names if name in self.slots]
            values = {slot: known[sample][slot.start] if known else None for slot in slots}
            samples.append({slot: value for slot, value in values.items() if value != 0.0})
        acts = any(samples)
        self._acting = Rows(self.down, self.up, self.strength, samples, self.now.guidance) if acts else None
        self._stacked, self._road, self._seen = None, None, self.strength._version

    def window(self) -> Window | None:
        """Return the rows from the first to the last that acts for any sample."""
        slots = [slot for name, slot in self.slots.items() if any(name in one for one in self.now.names)]
        if not slots:
            return None
        first, last = min(slot.start for slot in slots), max(slot.stop for slot in slots)
        return Window(first, self.down[first:last], self.up[first:last], self.strength[:, first:last])

    def link(self, strength: Tensor, now: Acting) -> None:
        """Take the strengths from this tensor from now on, and look there who acts."""
        self.strength, self.now, self._seen = strength, now, NEVER

    def moved(self, move: Callable[[Tensor], Tensor]) -> None:
        """Follow a move or cast of the layer in place; rows that were set aside are left behind."""
        rows = slice(None) if self.reserved else slice(self.width)
        down, up = move(self.down[rows]), move(self.up[rows])
        if down.is_floating_point() and down.element_size() >= 2:  # a layer that rests in float8 computes in another
            self.down, self.up = down, up
        else:
            self.down, self.up = self.down.to(down.device), self.up.to(up.device)
        self.now.moved = True
        with torch.inference_mode(False):  # else it could not be seen later whether it was written to
            self.link(self.strength.to(down.device), self.now)

    def copy(self) -> Thin:
        """Return one that shares no memory with this."""
        rows = slice(self.width)
        twin = Thin(self.down[rows].clone(), self.up[rows].clone(), self.slots, self.width, reserved=self.reserved)
        with torch.inference_mode(False):
            twin.link(self.strength.clone(), replace(self.now))
        return twin

    def _empty(self) -> Thin:
        return Thin.empty((self.up.shape[1], *self.down.shape[1:]), self.down.dtype, self.down.device)

    def _grown(self, needed: int, filling: Filling) -> tuple[Tensor, Tensor]:
        """Return other tensors that will hold the same rows and have room for more."""
        shape, home = (self.up.shape[1], *self.down.shape[1:]), (self.down.dtype, self.device)
        if not self.width:
            return filling.rows(shape, needed, home)
        down, up = filling.rows(shape, needed * ROOM.get(self.device.type, 1), home, spare=True)
        filling.copy(down[: self.width], self.down[: self.width])
        filling.copy(up[: self.width], self.up[: self.width])
        return down, up


def _free_rows(count: int, slots: Iterable[Slot]) -> int:
    """Return where the first gap of this many rows begins."""
    start = 0
    for slot in sorted(slots, key=lambda slot: slot.start):
        if slot.start - start >= count:
            return start
        start = max(start, slot.stop)
    return start
