"""Plan what banks are to hold, all of it before any bank is touched, and give it to them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from lorica.adapters import AdapterLayer
from lorica.errors import LoRAError, ModelError
from lorica.runtime.bank.bank import Bank
from lorica.runtime.bank.build import ReservedEdit, built
from lorica.runtime.bank.content import Content, Record
from lorica.runtime.bank.reserve import Overflow
from lorica.runtime.bank.share import Casts, Road, Share, share_of
from lorica.runtime.bank.strength_table import StrengthTable
from lorica.runtime.model.layers import Place
from lorica.runtime.model.supported_layers import axes_of

Base = Callable[[Place, str, str], "Tensor | None"]  # a layer's weight or bias as it is without anything fused into it
Planned = Content | ReservedEdit | None  # what a bank is to hold; None where no bank is to be


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the bank at one place is to hold.

    Args:
        layers: of each adapter, in the order of loading.
        beside_fused: whether something is fused into the weight there.
        room: rows to reserve.
    """

    layers: Mapping[str, AdapterLayer]
    beside_fused: bool
    room: int

    def records(self) -> dict[str, Record]:
        """The record of each adapter that the bank would keep."""
        return {name: Record(id(one), self.beside_fused and one.reads_weight) for name, one in self.layers.items()}


@dataclass(slots=True)
class Banks:
    """The banks of one model.

    Args:
        find: the layer at a place.
        base: fetches base weights.
        table: where their strengths stand.
        by_place: the banks that there are.
        before: what banks held before the operation that runs now; an undo gives it back, memory and digits alike.
    """

    find: Callable[[Place], nn.Module]
    base: Base
    table: StrengthTable
    by_place: dict[Place, Bank] = field(default_factory=dict[Place, Bank])
    before: dict[Place, Content] = field(default_factory=dict[Place, Content])

    @torch.no_grad()
    def plan(self, wanted: Mapping[Place, Wanted]) -> dict[Place, Planned]:
        """What banks are to hold, where they hold something else.

        Raises:
            ModelError: if an adapter needs a base weight that cannot be had.
            StateError: if room was reserved and does not suffice.
        """
        records = {place: one.records() for place, one in wanted.items()}
        fresh = {place: self._fresh(place, one, records[place]) for place, one in wanted.items()}
        casts = Casts(
            tensor
            for layers in fresh.values()
            for one in layers.values()
            if one.prefers_bypass
            for tensor in one.tensors.values()
        )
        overflow = Overflow(list(dict.fromkeys(name for layers in fresh.values() for name in layers)))
        reserving = any(one.room for one in wanted.values()) or any(b.content.room for b in self.by_place.values())
        planned: dict[Place, Planned] = {}
        with torch.inference_mode(mode=False):  # else what is made here could never be written to outside of that mode
            for place, one in wanted.items():
                bank = self.by_place.get(place)
                if self._holds(place, records[place], one.room):
                    continue
                before = self.before.get(place)
                if before is not None and not before.room and _matches(before, records[place], one.room):
                    planned[place] = before
                elif not one.layers and not one.room:
                    planned[place] = None
                else:
                    layer, road = self.find(place), Road(one.beside_fused, reserved=bool(one.room))
                    shares = self._shares(place, layer, fresh[place], road, casts)
                    content = None if bank is None else bank.content
                    made = built(layer, content, records[place], shares, one.room)
                    if reserving and fresh[place]:
                        overflow.note(place, max(one.room, 0 if content is None else content.room), made)
                    planned[place] = made
        overflow.check()
        return planned

    @torch.no_grad()
    def put(self, planned: Mapping[Place, Planned]) -> None:
        """Give banks what was planned; the record of a bank is empty while reserved rows are written."""
        if any((place in self.by_place) == (one is None) for place, one in planned.items()):
            _forget_graphs()
        for place, one in planned.items():
            self.table.stale = True
            bank = self.by_place.get(place)
            if bank is None:
                if one is not None:
                    self._put_on(place, one.content if isinstance(one, ReservedEdit) else one)
                continue
            self.before.setdefault(place, bank.content)
            if one is None:
                del self.by_place[place]  # first: a bank that is half off is put on anew if this breaks off
                bank.take_off()
            elif isinstance(one, ReservedEdit):
                bank.hold(replace(bank.content, held={}))
                bank.hold(one.write())
            else:
                bank.hold(one)

    def _put_on(self, place: Place, content: Content) -> None:
        layer = self.find(place)
        bank = self.by_place[place] = Bank(layer, content, self.table, axes=axes_of(layer), training=layer.training)
        bank.put_on()

    def _fresh(self, place: Place, wanted: Wanted, records: Mapping[str, Record]) -> dict[str, AdapterLayer]:
        """What a bank does not hold yet."""
        bank = self.by_place.get(place)
        if bank is None:
            return dict(wanted.layers)
        known = bank.content.held
        return {name: one for name, one in wanted.layers.items() if known.get(name) != records[name]}

    def _holds(self, place: Place, records: Mapping[str, Record], room: int) -> bool:
        bank = self.by_place.get(place)
        if bank is None:
            return not records and not room
        return _matches(bank.content, records, room) and bool(records or room)

    def _base_of(self, place: Place, change: AdapterLayer) -> Callable[[str], Tensor | None]:
        why = f"an adapter of kind {change.kind!r} is computed from it"
        return lambda leaf: self.base(place, leaf, why)

    def _shares(
        self, place: Place, layer: nn.Module, fresh: Mapping[str, AdapterLayer], road: Road, casts: Casts
    ) -> dict[str, Share]:
        shares: dict[str, Share] = {}
        try:
            for name, change in fresh.items():
                shares[name] = share_of(layer, change, self._base_of(place, change), casts, road)
        except LoRAError as error:
            raise ModelError(f"{'.'.join(place)}: {error}") from error
        return shares


def _matches(content: Content, records: Mapping[str, Record], room: int) -> bool:
    """Whether a content holds just these adapters, in this order, with at least this room."""
    same = content.held == records and list(content.held) == list(records)
    return same and (content.room >= room if room else not content.room)


def _forget_graphs() -> None:
    """Compile anew: the guards of a graph do not notice a hook that was put on a module, or taken off."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
