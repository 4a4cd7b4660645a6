"""The strengths of all banks of a model in one tensor: whatever changes, one write sets them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from lorica.runtime.bank.acting import Acting
from lorica.runtime.bank.bank import Part
from lorica.runtime.everywhere import Everywhere, acts
from lorica.runtime.model.plan import Place

CPU = torch.device("cpu")  # whatever torch's default device and dtype are just now

Key = tuple[Place, int]  # a part of a bank: the layer, and which of its content
Row = Mapping[str, Mapping[Place, float]]  # the strength of each adapter in each layer


@dataclass(slots=True)
class Entry:
    """Where one adapter's strengths stand: for each part that holds it, first column, how many, and scaling."""

    keys: list[Key]
    starts: Tensor
    counts: Tensor
    scalings: Tensor
    spread: Tensor  # the scaling of every column
    columns: Tensor | None = None  # in the whole tensor, by the offsets below
    offsets: Mapping[Key, int] | None = None

    def place(self, offsets: Mapping[Key, int]) -> Tensor:
        """Return the column of every strength."""
        if self.columns is None or self.offsets is not offsets:
            starts = self.starts + torch.tensor([offsets[key] for key in self.keys], dtype=torch.int64, device=CPU)
            ends = self.counts.cumsum(0)
            shifts = (starts - ends + self.counts).repeat_interleave(self.counts)
            self.columns, self.offsets = torch.arange(int(ends[-1]), device=CPU) + shifts, offsets
        return self.columns

    def values(self, strengths: Mapping[Place, float]) -> Tensor:
        """Return the strength of every column."""
        if isinstance(strengths, Everywhere):
            return (self.spread * strengths.value).to(torch.float32)
        numbers = [strengths.get(place, 0.0) for place, _ in self.keys]
        by_part = torch.tensor(numbers, dtype=torch.float64, device=CPU)
        return (by_part * self.scalings).to(torch.float32).repeat_interleave(self.counts)


@dataclass(frozen=True, slots=True)
class State:
    """What a board shows: one tensor ``(1 or samples, columns)`` on each device, and which piece each part reads.

    Args:
        parts: what reads.
        offsets: the first column of each part.
        flats: the tensors.
        views: the piece of each part.
        host: the numbers, on the CPU.
        acting: for each sample, the adapters whose strength is not 0 everywhere.
        guidance: how often the list of samples stands in a batch, if that is known.
        width: the number of columns.
    """

    parts: Mapping[Key, Part] = field(default_factory=dict[Key, Part])
    offsets: Mapping[Key, int] = field(default_factory=dict[Key, int])
    flats: Mapping[torch.device, Tensor] = field(default_factory=dict[torch.device, Tensor])
    views: Mapping[Key, Tensor] = field(default_factory=dict[Key, Tensor])
    host: Tensor = field(default_factory=lambda: torch.zeros(1, 0, dtype=torch.float32, device=CPU))
    acting: tuple[frozenset[str], ...] = (frozenset(),)
    guidance: int | None = None
    width: int = 0

    def fits(self, parts: Mapping[Key, Part], samples: int) -> bool:
        """Tell whether these parts can read from the same tensors: nothing changed its place, size or device."""
        return (
            len(self.host) == samples
            and self.views.keys() == parts.keys()
            and all(
                self.views[key].shape[1] == part.width and self.views[key].device == part.device
                for key, part in parts.items()
            )
        )


class Board:
    """Sets strengths. After an error, :meth:`restore` shows what was there before."""

    def __init__(self) -> None:
        self.state = State()
        self._entries: dict[str, Entry] = {}
        self._now = Acting()

    def parts_with(self, changed: Mapping[Key, Part | None]) -> dict[Key, Part]:
        """Return all parts, with these in the place of what was there; None where there is nothing any more."""
        merged = dict(self.state.parts)
        for key, part in changed.items():
            if part is not None:
                merged[key] = part
            else:
                merged.pop(key, None)
        return merged

    def forget(self, names: frozenset[str]) -> None:
        """Look again where the strengths of these adapters stand: they came or went."""
        for name in names:
            self._entries.pop(name, None)

    def write(self, parts: Mapping[Key, Part], rows: Sequence[Row], guidance: int | None = None) -> None:
        """Set the strength of every adapter everywhere: one row for all samples, or one for each.

        Args:
            parts: all that read from the board.
            rows: for each sample, adapter to layer to strength; what is not named is off.
            guidance: how often the list of samples stands in a batch, if that is known.
        """
        before = self.state
        same = parts is before.parts and len(rows) == len(before.host) and not self._now.moved
        laid = before if same or before.fits(parts, len(rows)) else _lay_out(parts, len(rows))
        host = torch.zeros(len(rows), laid.width, dtype=torch.float32, device=CPU)
        acting: list[set[str]] = [set() for _ in rows]
        for sample, row, names in zip(host, rows, acting, strict=True):
            for name, strengths in row.items():
                entry = self._entry(name, parts)
                if entry.keys and acts(strengths):
                    names.add(name)
                    sample[entry.place(laid.offsets)] = entry.values(strengths)
        names = tuple(map(frozenset, acting))
        shown = State(parts, laid.offsets, laid.flats, laid.views, host, names, guidance, laid.width)
        self._show(shown, linked=same)

    def restore(self, state: State) -> None:
        """Show again what was shown before, whatever has happened since."""
        self._show(state, linked=False)

    def _show(self, state: State, *, linked: bool) -> None:
        for flat in state.flats.values():
            flat.copy_(state.host)
        if state.acting != self._now.names:  # else every part would look for its rows again
            self._now.names = state.acting
        self._now.guidance = state.guidance
        if not linked:
            for key, part in state.parts.items():
                if part.strength is not state.views[key]:
                    part.link(state.views[key], self._now)
            self._now.moved = False
        self.state = state

    def _entry(self, name: str, parts: Mapping[Key, Part]) -> Entry:
        if name not in self._entries:
            slots = [(key, part.slots[name]) for key, part in parts.items() if name in part.slots]
            counts = torch.tensor([slot.stop - slot.start for _, slot in slots], dtype=torch.int64, device=CPU)
            scalings = torch.tensor([slot.scaling for _, slot in slots], dtype=torch.float64, device=CPU)
            self._entries[name] = Entry(
                [key for key, _ in slots],
                torch.tensor([slot.start for _, slot in slots], dtype=torch.int64, device=CPU),
                counts,
                scalings,
                scalings.repeat_interleave(counts),
            )
        return self._entries[name]


def _lay_out(parts: Mapping[Key, Part], samples: int) -> State:
    """Return new tensors with room for the strengths of these parts."""
    widths = [part.width for part in parts.values()]
    starts = [0, *accumulate(widths)]
    devices = {part.device for part in parts.values()}
    flats = {device: torch.zeros(samples, starts[-1], dtype=torch.float32, device=device) for device in devices}
    pieces = {device: flat.split(widths, dim=1) for device, flat in flats.items()}
    views = {key: pieces[part.device][place] for place, (key, part) in enumerate(parts.items())}
    return State(parts, dict(zip(parts, starts, strict=False)), flats, views, width=starts[-1])
