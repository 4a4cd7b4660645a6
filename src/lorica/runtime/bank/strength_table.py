"""The strengths of all banks of a model in one tensor: whatever changes, one write sets them all."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lorica.runtime.bank.content import Content
from lorica.runtime.model.layers import Place
from lorica.runtime.strengths import Dial

CPU = torch.device("cpu")  # whatever torch's default device and dtype are just now


class Reader(Protocol):
    """A bank, as the table sees it."""

    content: Content
    start: int

    def read_from(self, start: int, strength: Tensor, batch_layout: Tensor) -> None:
        """Take strengths from this part of the table from now on."""
        ...


@dataclass(slots=True)
class Columns:
    """Where one adapter's strengths stand.

    Args:
        places: the layer of each run of columns.
        counts: how many columns each run has.
        index: every column in the first sample's row.
        step: from one sample's row to the next, for every column.
        scalings: what the strength is multiplied by in every column.
    """

    places: list[Place]
    counts: Tensor
    index: Tensor
    step: Tensor
    scalings: Tensor

    def values(self, dial: Dial) -> Tensor:
        """The number in every column."""
        if dial.value is not None:
            return (self.scalings * dial.value).to(torch.float32)
        numbers = torch.tensor([dial.at(place) for place in self.places], dtype=torch.float64, device=CPU)
        return (numbers.repeat_interleave(self.counts) * self.scalings).to(torch.float32)


class Layout(NamedTuple):
    """Size of one bank's part of the table, and where that is computed with."""

    width: int
    device: torch.device


class StrengthTable:
    """Strengths of all banks, ``(rows, width)`` for each bank, one after the other in one tensor on each device.

    Attributes:
        host: the numbers on the CPU, flat.
        names: for each sample, the adapters whose strength is not 0 everywhere; one set if all samples share it.
        guidance: how often the list of samples stands in a batch, if that is known.
        version: another number after each write.
        stale: whether banks changed what they hold, or moved, since the strengths were laid out.
    """

    def __init__(self) -> None:
        with torch.inference_mode(mode=False):
            self.host = torch.zeros(0, dtype=torch.float32, device=CPU)
        self.names: tuple[frozenset[str], ...] = (frozenset(),)
        self.guidance: int | None = None
        self.version = 0
        self.stale = False
        self._rows = 1
        self._layouts: dict[Place, Layout] = {}
        self._flats: dict[torch.device, Tensor] = {}
        self._batches: dict[torch.device, Tensor] = {}
        self._columns: dict[str, Columns] = {}
        self._noted: tuple[int, ...] | None = None  # what the layouts of batches say

    def write(
        self,
        banks: Mapping[Place, Reader],
        sets: Sequence[Mapping[str, Dial]],
        guidance: int | None = None,
        reserved_rows: int = 1,
    ) -> None:
        """Set the strength of every adapter in every bank.

        Args:
            banks: all that read from the table.
            sets: the adapters that act: one set for all samples, or one for each. What is not named is off.
            guidance: how often the list of samples stands in a batch, if that is known.
            reserved_rows: the samples that compiled graphs have room for.
        """
        rows = max(len(sets), reserved_rows)
        # What is written outside of inference mode can be written to again in any mode.
        with torch.inference_mode(mode=False), torch.no_grad():
            if self.stale or rows != self._rows:
                self._lay_out(banks, rows)
            host = torch.zeros_like(self.host)
            for sample, dials in enumerate(sets):
                for name, dial in dials.items():
                    columns = self._columns_of(name, banks)
                    host[columns.index + sample * columns.step] = columns.values(dial)
            self.host.copy_(host)
            for flat in self._flats.values():
                flat.copy_(host)
            self.names = tuple(map(frozenset, sets))
            self.guidance, self.version = guidance, self.version + 1
            self.note_batch(0)

    def note_batch(self, images: int) -> None:
        """Tell compiled graphs how a batch is laid out: the samples, their guidance, the pictures of each prompt."""
        numbers = (len(self.names), self.guidance or 0, images)
        if numbers != self._noted:
            for layout in self._batches.values():
                layout.copy_(torch.tensor(numbers, device=CPU))
            self._noted = numbers

    def snapshot(self, memo: dict[int, Any]) -> StrengthTable:
        """The table for the banks of a copied model: it stays as it is."""
        if id(self) not in memo:
            twin = memo[id(self)] = copy.copy(self)
            twin.host = self.host.clone()
        return memo[id(self)]

    def _lay_out(self, banks: Mapping[Place, Reader], rows: int) -> None:
        """Give every bank its part of the table; memory stays where it is if no part changes its size or device."""
        layouts = {place: Layout(bank.content.width, bank.content.down.device) for place, bank in banks.items()}
        self.stale, self._columns = True, {}
        if layouts != self._layouts or rows != self._rows:
            self._layouts = {}  # until all of it is there, in case this breaks off
            total = rows * sum(layout.width for layout in layouts.values())
            self.host = torch.zeros(total, dtype=torch.float32, device=CPU)
            devices = {layout.device for layout in layouts.values()}
            self._flats = {device: torch.zeros(total, dtype=torch.float32, device=device) for device in devices}
            self._batches = {device: self._batches.get(device, _new_batch(device)) for device in devices}
            self._noted = None
            self._layouts, self._rows = layouts, rows
        start = 0
        for place, bank in banks.items():
            width, device = layouts[place]
            size = rows * width
            bank.read_from(start, self._flats[device][start : start + size].view(rows, width), self._batches[device])
            start += size
        self.stale = False

    def _columns_of(self, name: str, banks: Mapping[Place, Reader]) -> Columns:
        if name not in self._columns:
            runs = [
                (place, bank.start + run.start, run.stop - run.start, bank.content.width, run.scaling)
                for place, bank in banks.items()
                for run in bank.content.columns().get(name, ())
            ]
            places, starts, counts, widths, scalings = map(list, zip(*runs, strict=True)) if runs else ([],) * 5
            number = torch.tensor(counts, dtype=torch.int64, device=CPU)
            each = [torch.arange(count, device=CPU) + start for start, count in zip(starts, counts, strict=True)]
            self._columns[name] = Columns(
                places,
                number,
                torch.cat(each) if each else number,
                torch.tensor(widths, dtype=torch.int64, device=CPU).repeat_interleave(number),
                torch.tensor(scalings, dtype=torch.float64, device=CPU).repeat_interleave(number),
            )
        return self._columns[name]


def _new_batch(device: torch.device) -> Tensor:
    return torch.zeros(3, dtype=torch.int64, device=device)
