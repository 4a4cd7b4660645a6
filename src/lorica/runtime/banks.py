"""The banks of one model: built completely, then put in with their strengths, or not at all."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from lorica.adapters import Factors
from lorica.runtime.bank.bank import Bank, Content, Part, Shares, share_of, size_of
from lorica.runtime.bank.reserve import Overflow
from lorica.runtime.bank.strength_table import Board, Key, Row, State
from lorica.runtime.bank.thin import Thin
from lorica.runtime.filling import Filling, amount
from lorica.runtime.model.plan import Place, Plan

NOTHING = Content()
COMPILER = "torch._dynamo"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What banks are going to hold, ready to be put in.

    Args:
        contents: for each layer whose bank changes, what it will hold.
        plans: every adapter that the banks will hold then.
        changed: the adapters that come or go, or whose strengths may stand elsewhere then.
        written: the layers where adapters take over the rows of those of their name, and the factors to write there.
    """

    contents: Mapping[Place, Content]
    plans: Mapping[str, Plan]
    changed: frozenset[str]
    written: Mapping[Place, Mapping[str, Factors]] = field(default_factory=dict[Place, "Mapping[str, Factors]"])


@dataclass
class KeptBanks:
    """What banks held and showed, to be restored.

    Args:
        plans: the adapters that were in them.
        state: what the board showed.
        contents: what was in each bank that has changed since.
        left: the adapters whose rows were given to others, or cleared, since.
    """

    plans: Mapping[str, Plan]
    state: State
    contents: dict[Place, Content] = field(default_factory=dict[Place, Content])
    left: set[str] = field(default_factory=set[str])

    def note(self, contents: Mapping[Place, Content], left: set[str]) -> None:
        """Note what banks held before they change."""
        self.contents, self.left = {**contents, **self.contents}, self.left | left


class Banks:
    """Which layers hold a bank, and what is in them.

    Args:
        find: returns the layer at a place.
        original: returns the ``weight`` or ``bias`` of a layer before anything was fused into it; None if nothing was.
    """

    def __init__(self, find: Callable[[Place], nn.Module], original: Callable[[Place, str], Tensor | None]) -> None:
        self._find, self._original = find, original
        self._banks: dict[Place, Bank] = {}
        self._board = Board()
        self.plans: Mapping[str, Plan] = {}
        self._kept: Callable[[], KeptBanks | None] = lambda: None

    @torch.no_grad()
    def prepare(self, plans: Mapping[str, Plan]) -> Prepared:
        """Return what the banks must hold to hold exactly these adapters. The model is not touched.

        Raises:
            ModelError: if an adapter needs a base weight that cannot be had.
            StateError: if room was reserved and does not suffice.
        """
        gone = {name: plan for name, plan in self.plans.items() if plans.get(name) is not plan}
        new = {name: plan for name, plan in plans.items() if self.plans.get(name) is not plan}
        places = dict.fromkeys(place for plan in (*gone.values(), *new.values()) for place in plan)
        contents, written = dict[Place, Content](), dict[Place, Mapping[str, Factors]]()
        overflow, reserved, left = Overflow(list(new)), self.reserved, set(gone)
        filling = Filling(amount(change for plan in new.values() for change in plan.values()))
        exchange = gone.keys() == new.keys()
        with torch.inference_mode(False):  # else what is made here could never be written to outside of that mode
            for place in places:
                layer, content = self._find(place), self._content(place)
                shares = self._shares(place, layer, new)
                same = content.exchanged(left, shares) if exchange else None
                if same is not None:
                    contents[place], written[place] = same, shares.thin
                    continue
                if reserved:
                    overflow.note(place, content, left, shares)
                if not overflow.is_some:
                    contents[place] = content.edited(layer, left, shares, filling)
            overflow.check()
            filling.finish()
        return Prepared(contents, dict(plans), frozenset({*gone, *new, *_moved(contents)}), written)

    def _shares(self, place: Place, layer: nn.Module, plans: Mapping[str, Plan]) -> Shares:
        """Return what adapters bring to a layer."""
        changes = {name: plan[place] for name, plan in plans.items() if place in plan}
        return share_of(layer, changes, self._original, place)

    @torch.no_grad()
    def prepare_room(self, places: Iterable[Place], rank: int) -> Prepared:
        """Return what the banks hold now, with room for this many rows of factors at these places."""
        with torch.inference_mode(False):
            contents = {place: self._content(place).with_room(self._find(place), rank) for place in places}
        return Prepared(contents, self.plans, frozenset(self.plans))

    def size_of(self, plan: Plan) -> int:
        """Return how many bytes of the banks an adapter takes (LoCon, whose core is folded, a little more or less)."""
        return sum(size_of(self._find(place), change) for place, change in plan.items())

    def prepare_nothing(self) -> Prepared:
        """Return what it takes to have no bank left, reserved or not."""
        return Prepared(dict.fromkeys(self._banks, NOTHING), {}, frozenset(self.plans))

    @property
    def places(self) -> Collection[Place]:
        """The layers that hold a bank."""
        return self._banks.keys()

    @property
    def held(self) -> dict[Place, Bank]:
        """The banks, by the layer that each serves."""
        return dict(self._banks)

    @property
    def acting(self) -> set[str]:
        """The adapters whose strength is not 0 everywhere, for any sample."""
        return {name for names in self._board.state.acting for name in names}

    @property
    def reserved(self) -> bool:
        """Whether room was reserved anywhere."""
        return any(bank.content.thin is not None and bank.content.thin.reserved for bank in self._banks.values())

    @torch.no_grad()
    def commit(self, prepared: Prepared, rows: Sequence[Row], guidance: int | None = None) -> None:
        """Put in what was prepared and set the strengths, all of it or, on an error, nothing."""
        before = {place: self._content(place) for place in prepared.contents}
        plans, state, touched = self.plans, self._board.state, list[Place]()
        left = {name for name, plan in plans.items() if prepared.plans.get(name) is not plan}
        try:
            self._put(prepared.contents)
            self._board.forget(prepared.changed)
            parts = self._board.parts_with(_parts(prepared.contents))
            self._write(parts, rows, guidance)
            self._overwrite(prepared.written, touched)
            self.plans = prepared.plans
            if left:
                self._clear(before, touched)
            if (kept := self._kept()) is not None:
                kept.note(before, left)
        except BaseException:
            self._put(before)
            self._board.forget(prepared.changed)
            self._board.restore(state)
            self.plans = plans
            self._fill_again({name: plans[name] for name in left}, touched)
            raise

    def _overwrite(self, written: Mapping[Place, Mapping[str, Factors]], touched: list[Place]) -> None:
        """Write factors into the rows of those that they replace, and list the layers where that was begun."""
        filling = Filling()
        for place, factors in written.items():
            touched.append(place)
            cast("Thin", self._content(place).thin).overwrite(factors, filling)
        filling.finish()

    def _clear(self, before: Mapping[Place, Content], touched: list[Place]) -> None:
        """Clear the rows of adapters that left holes, and list the layers where that was begun."""
        for place, content in before.items():
            if content.thin is not None and (now := self._content(place).thin) is not None:
                touched.append(place)
                now.clear_what_left(content.thin)

    def _fill_again(self, plans: Mapping[str, Plan], places: Iterable[Place]) -> None:
        """Write the factors of adapters into their rows again at these places."""
        if not plans:
            return
        with torch.inference_mode(False):
            filling = Filling()
            for place in dict.fromkeys(places):
                named = {name: plan for name, plan in plans.items() if place in plan}
                shares = self._shares(place, self._find(place), named) if named else Shares()
                if shares.thin:
                    cast("Thin", self._content(place).thin).overwrite(shares.thin, filling)
            filling.finish()

    def keep(self) -> KeptBanks:
        """Return what :meth:`restore` needs to undo all that is done from here on."""
        kept = KeptBanks(self.plans, self._board.state)
        self._kept = weakref.ref(kept)  # nothing is held longer than by who may want to restore it
        return kept

    @torch.no_grad()
    def restore(self, kept: KeptBanks) -> None:
        """Put in what was in the banks when that was kept, at the strengths of then."""
        now, plans = self.plans, kept.plans
        self._put(kept.contents)
        self._board.forget(frozenset({*now, *plans}))
        self._board.restore(kept.state)
        self.plans = plans
        left = {name: plans[name] for name in kept.left & plans.keys()}
        self._fill_again(left, (place for plan in left.values() for place in plan))

    def write(self, rows: Sequence[Row], guidance: int | None = None) -> None:
        """Set the strength of every adapter: one row for all samples or one for each; those not named are off."""
        state = self._board.state
        try:
            self._write(state.parts, rows, guidance)
        except BaseException:
            self._board.restore(state)
            raise

    def _write(self, parts: Mapping[Key, Part], rows: Sequence[Row], guidance: int | None) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self._board.write(parts, rows, guidance)

    def _content(self, place: Place) -> Content:
        held = self._banks.get(place)
        return NOTHING if held is None else held.content

    def _put(self, contents: Mapping[Place, Content]) -> None:
        if COMPILER in sys.modules and not all(_look_alike(self._content(at), new) for at, new in contents.items()):
            torch.compiler.reset()  # guards do not notice a hook that was added to or taken from a module
        for place, content in contents.items():
            self._put_one(place, content)

    def _put_one(self, place: Place, content: Content) -> None:
        bank = self._banks.get(place)
        if not content.is_empty:
            if bank is None:
                layer = self._find(place)
                bank = self._banks[place] = Bank(layer, content, training=layer.training)
                bank.put_in()
            else:
                bank.__dict__["content"] = content
        elif bank is not None:
            del self._banks[place]
            bank.take_out()


def _parts(contents: Mapping[Place, Content]) -> dict[Key, Part | None]:
    return {
        (place, index): part
        for place, content in contents.items()
        for index, part in enumerate((content.thin, content.weights, content.biases))
    }


def _moved(contents: Mapping[Place, Content]) -> set[str]:
    """Return the adapters whose column in a stack may be another now, because one beside them came or went."""
    stacks = (stack for content in contents.values() for stack in (content.weights, content.biases) if stack)
    return {name for stack in stacks for name in stack.slots}


def _look_alike(one: Content, other: Content) -> bool:
    """Tell whether a graph that was compiled for one content serves the other too."""
    pairs = ((one.thin, other.thin), (one.weights, other.weights), (one.biases, other.biases))
    return all(a is b or (a and b and (a.width, a.room) == (b.width, b.room)) for a, b in pairs)
