"""Rows of a bank that act just now, prepared for the form of the formula that computes them with the least work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lorica.runtime.bank.content import Content, Rows
from lorica.runtime.bank.fast import SampleRows
from lorica.runtime.bank.formula import Strength
from lorica.runtime.bank.strength_table import StrengthTable

# Samples are computed apart where the rows that act for any of them are at least so many times those that act for one.
# A product of each sample with its own rows costs up to half as much again as one of all samples with as many.
APART = 2


@dataclass(frozen=True, slots=True)
class ActiveRows:
    """What acts in one layer until strengths or content change.

    Args:
        down: the rows that act for any sample, ``(R, in, *kernel)``.
        up: likewise, ``(out, R)``.
        row_strength: ``(1 or samples, R)``, or the one number that all are.
        strength: of all columns of the bank, ``(1 or samples, width)``.
        slots: where the rows stand in the bank.
        directs: columns of the direct changes that act.
        apart: the rows of each sample by themselves, where that is less work.
        guidance: how often the list of samples stands in a batch, if that is known.
    """

    down: Tensor
    up: Tensor
    row_strength: Strength
    strength: Tensor
    slots: tuple[Rows, ...]
    directs: tuple[int, ...]
    apart: SampleRows | None
    guidance: int | None

    @classmethod
    def of(cls, content: Content, table: StrengthTable, values: Tensor, strength: Tensor) -> ActiveRows | None:
        """What acts of this content; None if nothing does.

        Args:
            content: what the bank holds.
            table: tells which adapters act, for each sample.
            values: the bank's strengths on the CPU, so that a device need not be waited for.
            strength: the same where the layer computes.
        """
        numbers, strength = values.tolist(), strength[: len(table.names)]
        samples: list[dict[Rows, float]] = []
        directs: set[int] = set()
        for names, row in zip(table.names, numbers, strict=False):
            slots = (content.rows[name] for name in names if name in content.rows)
            samples.append({slot: row[slot.start] for slot in slots if row[slot.start] != 0.0})
            for column, (name, _) in enumerate(content.directs, len(content.down)):
                if name in names and row[column] != 0.0:
                    directs.add(column)
        union = tuple(sorted({slot for one in samples for slot in one}))
        if not union and not directs:
            return None
        single = _only(samples[0].values()) if len(samples) == 1 else None
        rows = _taken(strength, union, axis=1) if single is None else single
        down, up = _taken(content.down, union, axis=0), _taken(content.up, union, axis=1)
        apart = _apart(content, strength, samples, union) if len(samples) > 1 else None
        return cls(down, up, rows, strength, union, tuple(sorted(directs)), apart, table.guidance)

    @property
    def span(self) -> tuple[int, int]:
        """The first row and the one after the last."""
        return self.slots[0].start, self.slots[-1].stop


def _apart(
    content: Content, strength: Tensor, samples: Sequence[dict[Rows, float]], union: Sequence[Rows]
) -> SampleRows | None:
    """The rows of each sample, filled up to equal numbers with rows at strength 0; None if that is no less work."""
    counts = [sum(slot.stop - slot.start for slot in one) for one in samples]
    width = max(counts)
    if not width or sum(slot.stop - slot.start for slot in union) < APART * width:
        return None
    numbers = [[row for slot in one for row in range(slot.start, slot.stop)] for one in samples]
    filled = [rows + [union[0].start] * (width - len(rows)) for rows in numbers]
    index = torch.tensor(filled, device=strength.device)
    value: Strength | None = None
    if min(counts) == width:
        value = _only(value for one in samples for value in one.values())
    if value is None:
        mask = [[1.0] * count + [0.0] * (width - count) for count in counts]
        value = strength.gather(1, index) * torch.tensor(mask, dtype=torch.float32, device=strength.device)
    return SampleRows(content.down[index], content.up[:, index].transpose(0, 1), value)


def _only(values: Iterable[float]) -> float | None:
    """The number that all of these are, or None."""
    first, *others = {*values} or {None}
    return None if others else first


def _taken(tensor: Tensor, slots: Sequence[Rows], axis: int) -> Tensor:
    """The rows (or columns) of these slots, without a copy if they follow each other."""
    if not slots:
        return tensor.narrow(axis, 0, 0)
    if all(one.stop == other.start for one, other in pairwise(slots)):
        return tensor.narrow(axis, slots[0].start, slots[-1].stop - slots[0].start)
    return torch.cat([tensor.narrow(axis, slot.start, slot.stop - slot.start) for slot in slots], dim=axis)
