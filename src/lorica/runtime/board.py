"""The strengths of all banks of a model in one tensor: whatever changes, one write sets them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from lorica.runtime.bank import Part
from lorica.runtime.plan import Place

Key = tuple[Place, int]  # a part of a bank: the layer, and which of its content
Row = Mapping[str, Mapping[Place, float]]  # the strength of each adapter in each layer


@dataclass(slots=True)
class Entry:
    """Where one adapter's strengths stand: for each part that holds it, first column, how many, and scaling."""

    keys: list[Key]
    starts: Tensor
    counts: Tensor
    scalings: Tensor
    columns: Tensor | None = None  # in the whole tensor; None until it is laid out

    def values(self, strengths: Mapping[Place, float]) -> Tensor:
        """Return the strength of every column."""
        by_part = torch.tensor([strengths.get(place, 0.0) for place, _ in self.keys], dtype=torch.float64)
        return (by_part * self.scalings).to(torch.float32).repeat_interleave(self.counts)


class Board:
    """One tensor ``(1 or samples, columns)`` on each device, of which the strengths of every part are a view."""

    def __init__(self) -> None:
        self._parts: dict[Key, Part] = {}
        self._entries: dict[str, Entry] = {}
        self._offsets: dict[Key, int] = {}
        self._flats: dict[torch.device, Tensor] = {}
        self._views: dict[Key, Tensor] = {}
        self._layout: tuple[object, ...] = ()
        self._acting: frozenset[str] | None = None  # None: to be told anew
        self._guidance: int | None = None

    def put(self, parts: Mapping[Key, Part | None], changed: Iterable[str]) -> None:
        """Take new parts in the place of others; None where there is nothing any more.

        Args:
            parts: what is where now.
            changed: the adapters that came or went.
        """
        for key, part in parts.items():
            if part is None:
                self._parts.pop(key, None)
            else:
                self._parts[key] = part
        for name in changed:
            self._entries.pop(name, None)

    def write(self, rows: Sequence[Row], guidance: int | None = None) -> None:
        """Set the strength of every adapter everywhere: one row for all samples, or one for each.

        Args:
            rows: for each sample, adapter to layer to strength; what is not named is off.
            guidance: how often the list of samples stands in a batch, if that is known.
        """
        self._lay_out(len(rows))
        host = torch.zeros(len(rows), sum(part.width for part in self._parts.values()))
        acting: set[str] = set()
        for sample, row in zip(host, rows, strict=True):
            for name, strengths in row.items():
                entry = self._entry(name)
                if entry.keys and any(strengths.values()):
                    acting.add(name)
                    sample[self._columns(entry)] = entry.values(strengths)
        for flat in self._flats.values():
            flat.copy_(host)
        self._let_act(frozenset(acting), guidance)

    def _lay_out(self, samples: int) -> None:
        """Let every part read its piece; where nothing changed its place or size, the tensors stay what they are."""
        linked = all(part.strength is self._views.get(key) for key, part in self._parts.items())
        if linked and len(self._views) == len(self._parts) and self._samples == samples:
            return
        layout = (samples, *((key, part.width, part.strength.device) for key, part in self._parts.items()))
        if layout != self._layout:
            self._make(samples)
            self._layout = layout
        for key, part in self._parts.items():
            part.link(self._views[key])
        self._acting = None

    @property
    def _samples(self) -> int:
        return int(next(iter(self._flats.values())).shape[0]) if self._flats else 0

    def _make(self, samples: int) -> None:
        widths = [part.width for part in self._parts.values()]
        starts = [0, *accumulate(widths)]
        self._offsets = dict(zip(self._parts, starts, strict=False))
        devices = {part.strength.device for part in self._parts.values()}
        self._flats = {device: torch.zeros(samples, starts[-1], device=device) for device in devices}
        pieces = {device: flat.split(widths, dim=1) for device, flat in self._flats.items()}
        self._views = {
            key: pieces[part.strength.device][place] for place, (key, part) in enumerate(self._parts.items())
        }
        for entry in self._entries.values():
            entry.columns = None

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            slots = [(key, part.slots[name]) for key, part in self._parts.items() if name in part.slots]
            self._entries[name] = Entry(
                [key for key, _ in slots],
                torch.tensor([slot.start for _, slot in slots], dtype=torch.int64),
                torch.tensor([slot.stop - slot.start for _, slot in slots], dtype=torch.int64),
                torch.tensor([slot.scaling for _, slot in slots], dtype=torch.float64),
            )
        return self._entries[name]

    def _columns(self, entry: Entry) -> Tensor:
        if entry.columns is None:
            starts = entry.starts + torch.tensor([self._offsets[key] for key in entry.keys])
            ends = entry.counts.cumsum(0)
            entry.columns = torch.arange(int(ends[-1])) + (starts - ends + entry.counts).repeat_interleave(entry.counts)
        return entry.columns

    def _let_act(self, acting: frozenset[str], guidance: int | None) -> None:
        if acting == self._acting and guidance == self._guidance:
            return
        for part in self._parts.values():
            part.act(acting)
            part.guidance = guidance
        self._acting, self._guidance = acting, guidance
