"""Which rows of a bank act just now, and the road through them that is the least work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from lorica.runtime.bank.apart import Apart
from lorica.runtime.bank.products import Strength, adding
from lorica.runtime.bank.roads import Road, Slot, Stacked

# Samples stand apart where the rows that act for any of them are at least so many times those that act for one. A
# product of each sample with its own rows costs up to half as much again as one of all samples with as many.
APART = 2


@dataclass(frozen=True, slots=True)
class Rows:
    """What acts in one layer.

    Args:
        down: all rows of the bank, ``(C, in, *kernel)``.
        up: ``(C, out)``.
        strength: ``(1 or samples, C)``.
        samples: for each sample the rows that act, and the strength of each; a value is None where only the device
            that computes knows it.
        guidance: how often the list of samples stands in a batch, if that is known.
    """

    down: Tensor
    up: Tensor
    strength: Tensor
    samples: Sequence[Mapping[Slot, float | None]]
    guidance: int | None

    def stacked(self) -> Stacked:
        """Return the road that is open for every layer, with gradients too."""
        slots = self._union()
        value = _only(self.samples[0].values()) if len(self.samples) == 1 else None
        strength = _rows(self.strength.t(), slots).t() if value is None else value
        return Stacked(_rows(self.down, slots), _rows(self.up, slots), strength, self.guidance)

    def best(self, layer: nn.Module, y: Tensor) -> Road:
        """Return the road with the least work, for outputs of the shape of ``y``, where ``y`` may be written to."""
        width = max(sum(slot.stop - slot.start for slot in one) for one in self.samples)
        rows = sum(slot.stop - slot.start for slot in self._union())
        known = not any(None in one.values() for one in self.samples)  # else the values would have to be waited for
        if adding(layer) is None or (len(self.samples) > 1 and rows < APART * width):
            return self.stacked()
        road = self._apart(width) if len(self.samples) > 1 else self.stacked()
        points = y.numel() // self.up.shape[1] // len(self.samples)
        return (road.whole(points) if known else None) or road

    def _union(self) -> list[Slot]:
        return sorted({slot for one in self.samples for slot in one}, key=lambda slot: slot.start)

    def _apart(self, width: int) -> Apart:
        """Return the rows of each sample, padded to this width with a row that acts somewhere, at strength 0."""
        any_row = self._union()[0].start
        index, mask = [], []
        for one in self.samples:
            rows = [row for slot in one for row in range(slot.start, slot.stop)]
            index.append(rows + [any_row] * (width - len(rows)))
            mask.append([1.0] * len(rows) + [0.0] * (width - len(rows)))
        device, flat = self.down.device, [row for rows in index for row in rows]
        where = torch.tensor(index, device=device)
        padded = any(0.0 in row for row in mask)
        strength: Strength | None = None if padded else _only(value for one in self.samples for value in one.values())
        if strength is None:
            strength = self.strength.gather(1, where) * torch.tensor(mask, dtype=torch.float32, device=device)
        return Apart(_taken(self.down, flat, where), _taken(self.up, flat, where), strength, self.guidance)


def _only(values: Iterable[float | None]) -> float | None:
    """Return the number that all of these are, or None."""
    first, *others = set(values)
    return None if others else first


def _taken(tensor: Tensor, flat: list[int], where: Tensor) -> Tensor:
    """Return ``tensor[where]``, without a copy if the rows follow each other."""
    first, count = flat[0], len(flat)
    if flat == list(range(first, first + count)):
        return tensor[first : first + count].view(*where.shape, *tensor.shape[1:])
    return tensor[where]


def _rows(tensor: Tensor, slots: Sequence[Slot]) -> Tensor:
    """Return the rows of these slots, without a copy if they follow each other."""
    if all(one.stop == other.start for one, other in pairwise(slots)):
        return tensor[slots[0].start : slots[-1].stop]
    return torch.cat([tensor[slot.start : slot.stop] for slot in slots])
