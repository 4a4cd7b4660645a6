"""What a bank holds: stacked factors of all adapters on one layer, and what they have beside factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lorica.runtime.bank.share import Direct, home_of
from lorica.runtime.model.supported_layers import weight_shape


class Rows(NamedTuple):
    """Rows of the stacked factors that belong to one adapter, and its ``alpha / r``."""

    start: int
    stop: int
    scaling: float


class Record(NamedTuple):
    """What a bank was given of one adapter: known by identity, so that the bank keeps no tensors of the file alive.

    Args:
        layer: ``id`` of the adapter's layer, which the state holds as long as the record stands.
        beside_fused: whether it reads the layer's weight, and something is fused into that.
    """

    layer: int
    beside_fused: bool


@dataclass(frozen=True, slots=True)
class Content:
    """What a bank holds, in the order in which the adapters were loaded.

    Args:
        down: stacked factors ``(C, in, *kernel)``.
        up: likewise, ``(out, C)``.
        rows: the rows of each adapter, without gaps.
        directs: what adapters have beside factors, by name.
        held: record of what was put in, by adapter.
        room: how many rows are reserved; 0 if there are just as many as are needed.
    """

    down: Tensor
    up: Tensor
    rows: Mapping[str, Rows] = field(default_factory=dict[str, Rows])
    directs: tuple[tuple[str, Direct], ...] = ()
    held: Mapping[str, Record] = field(default_factory=dict[str, Record])
    room: int = 0

    @classmethod
    def empty(cls, layer: nn.Module, room: int = 0) -> Content:
        """Content without adapters, with room for this many rows."""
        (device, dtype), (out, *rest) = home_of(layer), weight_shape(layer)
        down = torch.zeros(room, *rest, dtype=dtype, device=device)
        return cls(down, torch.zeros(out, room, dtype=dtype, device=device), room=room)

    @property
    def width(self) -> int:
        """Number of strengths that it takes: one for each row, and one for each direct change."""
        return len(self.down) + len(self.directs)

    def columns(self) -> dict[str, list[Rows]]:
        """Columns of each adapter in the bank's strengths, and what a strength is multiplied by there."""
        found: dict[str, list[Rows]] = {name: [rows] for name, rows in self.rows.items()}
        for place, (name, _) in enumerate(self.directs, len(self.down)):
            found.setdefault(name, []).append(Rows(place, place + 1, 1.0))
        return found

    def moved(self, move: Callable[[Tensor], Tensor]) -> Content:
        """The same on another device or in another precision; 8 bits are for weights at rest, not for computing."""

        def moving(tensor: Tensor) -> Tensor:
            there = move(tensor)
            return there if there.element_size() >= 2 else tensor.to(there.device)

        directs = tuple((name, direct.moved(moving)) for name, direct in self.directs)
        return replace(self, down=moving(self.down), up=moving(self.up), directs=directs)
