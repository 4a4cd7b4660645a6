"""The live model, and ``apply``: the only function that changes it, from one state to another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from lorica.adapters import AdapterLayer
from lorica.models.target import Target
from lorica.runtime.bank.batch import halves_of
from lorica.runtime.bank.planning import Banks
from lorica.runtime.bank.share import size_of
from lorica.runtime.bank.strength_table import StrengthTable
from lorica.runtime.fusing.weights import GivenUp, Weights
from lorica.runtime.model.layers import HeldLayers, LayerIndex, Place, target_of_layers
from lorica.runtime.model.owner import ATTRIBUTE, NOBODY, mark, owned_by_another, owner_of, unmark
from lorica.runtime.model.projections import Projections
from lorica.runtime.model.textual_inversion import Vocabulary
from lorica.runtime.model.watch import Watch
from lorica.runtime.pipeline.calls import Calls
from lorica.runtime.pipeline.forward_checks import ForwardChecks
from lorica.runtime.pipeline.steps import Run, WaitingSchedule, Write
from lorica.runtime.pipeline.threads import ThreadGuard
from lorica.runtime.regions.regions import RegionLimits
from lorica.runtime.regions.token_grids import batch_of
from lorica.runtime.state import Loaded, State


class LiveModel:
    """A model with the engine on it: its state, and all that stands on its layers and around its forwards.

    What stands there keeps a record of what was put in. ``apply`` compares with those records, never with the state
    that an operation started from: so it also mends what an operation that broke off has left.

    Args:
        components: the model's parts by name.
    """

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self.components = dict(components)
        self.state = State(dict(components), attached=False)
        self.held_layers = HeldLayers(self.components)
        self.projections = Projections(self.components)
        self.watch = Watch(self.held_layers, self.projections)
        self.weights = Weights(self.held_layers.find, self.components)
        self.table = StrengthTable()
        self.banks = Banks(self.held_layers.find, self.weights.base, self.table)
        self.guard = ThreadGuard()
        self.calls = Calls(self.guard, self.components, self, self.watch.check)
        self.vocabulary = Vocabulary(self.components, lambda: self.calls.pipelines)
        self.checks = ForwardChecks(self.guard, self)
        self.regions = RegionLimits(lambda: {name for names in self.table.names for name in names})
        self.loras: Any = None  # what attach returns for this model
        self._target = Target("this model", {})

    # ---- changes

    def change(self, make: Callable[[State], State]) -> None:
        """Change the model to the state that is made of the present one, whole or not at all."""
        with self.guard.changing():
            old = self.state
            new = make(old).with_residents(self._size_of)
            if new.loaded is not old.loaded or new.fused is not old.fused:
                self.projections.check()
            frozen = new.frozen and frozenset(place for place in new.frozen if new.fused_at(place))
            given_up: dict[Place, GivenUp] = {}
            try:
                apply(self, old, new)
                if new.frozen:
                    self.weights.give_up(new.frozen, new.frozen - frozen, given_up)
                self.banks.before = {}
                self.state = replace(new, frozen=frozen)  # last: from here on it is done
            except BaseException:
                self.state = old
                self.weights.take_back(given_up)
                apply(self, new, old)
                self.banks.before = {}
                raise

    def turn(self, run: Run, strengths: Mapping[tuple[str, int | None], Any]) -> None:
        """Set the strengths of a step, unless ``set`` has ended the run or an adapter is gone."""
        if self.state.following is run:
            there = {who: value for who, value in strengths.items() if who[0] in self.state.loaded}
            self.change(lambda state: state.with_turned(there))

    # ---- what a pipeline's call needs (LiveStrengths)

    @property
    def waiting(self) -> WaitingSchedule | None:
        """The schedules that the next call follows."""
        return self.state.schedules[-1] if self.state.schedules else None

    @property
    def following(self) -> Run | None:
        """The call that follows schedules just now."""
        return self.state.following

    def begin_run(self, make: Callable[[Write], Run]) -> State:
        """Give a run the function that sets strengths. Returns the state before."""
        before = self.state
        run = make(lambda strengths: self.turn(run, strengths))
        self.change(lambda state: replace(state, following=run))
        return before

    def end_run(self, run: Run, waiting: WaitingSchedule, before: State) -> None:
        """End a run, unless ``set`` has ended it: restore strengths, and drop schedules that were for one call."""
        if self.state.following is not run:
            return
        left = tuple(one for one in self.state.schedules if one.key is not waiting.key or one.stays)
        self.change(lambda state: replace(state.with_live_of(before), schedules=left, following=None))

    def note_images(self, images: int) -> None:
        """Tell compiled graphs how many pictures of each prompt there are; 0 if that is not known."""
        self.table.note_batch(images)

    # ---- what is on the model

    def target(self, indices: Mapping[str, LayerIndex]) -> Target:
        """Module paths and weight shapes of the live model, by which files are read and written."""
        self._target = target_of_layers(indices, self._target)
        return self._target

    @property
    def is_in_use(self) -> bool:
        """Whether anything is loaded or reserved."""
        return bool(self.state.loaded or self.state.room.rank)

    def check_live(self, components: Mapping[str, nn.Module]) -> None:
        """Raise if adapters would not act on these components, or one of them is another engine's."""
        for part in components.values():
            if getattr(part, ATTRIBUTE, NOBODY).model not in (None, self):
                raise owned_by_another(part)
        self.calls.check_components(components)

    def claim(self, components: Mapping[str, nn.Module]) -> None:
        """Take components from engines that hold nothing."""
        for part in components.values():
            owner: LiveModel | None = owner_of(part)
            if owner is not None and owner is not self and not owner.is_in_use:
                owner.change(lambda state: State(state.components, attached=False))

    # ---- what a forward needs (LiveForwards)

    def check_followed(self, component: nn.Module) -> None:
        """Raise if schedules wait for a call, and a component that they are for runs outside of one."""
        self.calls.check_followed(component)

    def halves(self, component: nn.Module, args: Any, kwargs: Any) -> int | None:
        """How often the list of samples stands in the batch of a forward of a component, if its input tells."""
        batch = batch_of(component, args, kwargs)
        return None if batch is None else halves_of(len(self.state.live), batch, self.state.guidance)

    def _size_of(self, loaded: Loaded) -> int:
        return sum(size_of(self.held_layers.find(place), change) for place, change in loaded.layers.items())


def apply(model: LiveModel, old: State, new: State) -> None:
    """Change a live model from one state to another; ``apply(model, new, old)`` undoes it, wherever it broke off.

    All that may be refused is refused before anything is changed. States only limit where is looked; what is there is
    known from the records on the model.

    Raises:
        LoRAError: if an adapter cannot be there; see :meth:`Weights.check`, :class:`Overflow` and
            :meth:`Vocabulary.prepare`.
    """
    if model.components != new.components:
        model.components.clear()
        model.components.update(new.components)
    places = _changed_places(old, new)
    if places or old.loaded is not new.loaded:  # an adapter may bring words alone
        _put_adapters(model, new, places)
    model.table.write(model.banks.by_place, new.acting, new.guidance, new.room.samples)
    if places or not old.stands_as(new):
        _put_around_forwards(model, old, new)
    if not new.loaded or new.memory_limit is not None:
        model.weights.spare.clear()


def _put_adapters(model: LiveModel, new: State, places: Collection[Place]) -> None:
    """Make weights, banks and vocabularies hold what they are to hold; all is planned first."""
    fused = {place: wanted for place in places if _differs(model.weights, place, wanted := new.fused_at(place), new)}
    model.weights.check(fused)
    if new.backup == "reload":
        model.weights.expect_stored(fused)
    words = {name: one.adapter.embeddings for name, one in new.loaded.items() if one.adapter.embeddings}
    prepared = model.vocabulary.prepare(words)
    banks = model.banks.plan({place: new.bank_at(place) for place in places})
    for place, wanted in fused.items():
        model.weights.write(place, wanted)
    model.banks.put(banks)
    model.vocabulary.put(words, prepared)
    if banks or fused:
        model.watch.hold({*model.banks.by_place, *model.weights.fused})
        model.checks.prove(model.components.values())


def _changed_places(old: State, new: State) -> list[Place]:
    """Places where banks or weights may have to change."""
    changed: dict[Place, None] = {}
    for name in {*old.loaded, *new.loaded}:
        before, after = old.loaded.get(name), new.loaded.get(name)
        same = before is after and (name in old.resident) == (name in new.resident)
        if not same or old.fused.get(name) is not new.fused.get(name):
            for one in (before, after):
                changed.update(dict.fromkeys(one.layers if one is not None else ()))
    if old.room is not new.room:
        changed.update(dict.fromkeys(sorted(old.room.places | new.room.places)))
    return list(changed)


# ---- weights


def _differs(weights: Weights, place: Place, wanted: Mapping[str, tuple[AdapterLayer, float]], new: State) -> bool:
    """Whether a weight holds something else than it is to hold."""
    if place in new.frozen and not new.attached:  # its original is given up, and what is fused stays
        return False
    held = weights.fused.get(place)
    if held is None:
        return bool(wanted) or place in weights.originals
    same = held.keys() == wanted.keys()
    return not same or any(held[name][0] is not wanted[name][0] or held[name][1] != wanted[name][1] for name in held)


# ---- components, and what stands around forwards


def _put_around_forwards(model: LiveModel, old: State, new: State) -> None:
    """Register what stands around forwards and calls as long as the engine is attached."""
    parts = list(model.components.values()) if new.attached else []
    for part in (*old.components.values(), *new.components.values()):
        if not any(part is one for one in parts):
            model.checks.end(part)
            unmark(part, model)
    for part in parts:
        if owner_of(part) is not model:
            mark(part, model)
        model.checks.begin(part)
    masks = {name: mask for name, mask in new.masks.by_name.items() if name in new.resident}
    limited = {place: bank for place, bank in model.banks.by_place.items() if masks.keys() & bank.content.held.keys()}
    model.regions.put(masks, new.masks.elsewhere, model.components, limited)
    model.calls.intercept(on=new.attached)
