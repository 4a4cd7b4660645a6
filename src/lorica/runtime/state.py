"""State: one frozen value that says all of what is wished on a live model. Each verb of ``Loras`` makes another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from lorica.adapters import Adapter, AdapterLayer
from lorica.errors import ConfigError, StateError, UnknownNameError
from lorica.runtime.bank.planning import Wanted
from lorica.runtime.fusing.originals import Backup
from lorica.runtime.model.layers import Place
from lorica.runtime.pipeline.steps import Run, WaitingSchedule
from lorica.runtime.strengths import Dial, Strength

Source = str | Path | Mapping[str, Tensor] | Adapter
Dials = Mapping[str, Dial]  # the strength of each adapter


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """One loaded adapter.

    Args:
        adapter: its value.
        layers: what it changes, by the live model's own paths.
    """

    adapter: Adapter
    layers: Mapping[Place, AdapterLayer]


@dataclass(frozen=True, slots=True)
class Masks:
    """Regions of the picture that adapters are limited to.

    Args:
        by_name: adapter to mask ``(height, width)`` from 0 to 1.
        elsewhere: what a strength is multiplied by in layers that do not act on the picture itself.
    """

    by_name: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    elsewhere: float = 1.0


@dataclass(frozen=True, slots=True)
class Room:
    """Room reserved for what is loaded after the model was compiled.

    Args:
        rank: rows of factors on each layer.
        places: the layers.
        samples: rows of strengths.
    """

    rank: int = 0
    places: frozenset[Place] = frozenset()
    samples: int = 1

    def check_samples(self, count: int) -> None:
        """Raise if there are more sets for samples than rows were reserved; without a reservation any number has room.

        Raises:
            StateError: if so.
        """
        if self.rank and self.samples > 1 and count > self.samples:
            raise StateError(
                f"there are sets for {count} samples, but reserve() set rows aside for {self.samples}: "
                f"reserve(rank={self.rank}, samples={count}) and compile again, or give fewer sets."
            )


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What is loaded on a live model, what acts how strongly, and what is inside the weights.

    Args:
        components: the model's parts by name.
        loaded: the adapters by name, in the order of loading.
        live: the adapters that act beside the weights: one set for all samples, or one for each.
        per_sample: whether each sample has a set of its own.
        guidance: how often the list of samples stands in a batch, if that was said.
        enabled: whether live adapters act.
        fused: the adapters inside the weights, at the strengths that they were fused at.
        backup: how the originals of weights are kept that are fused into next.
        frozen: the places whose originals were given up, so that what is fused there stays.
        resident: the adapters that banks hold, from the one that acted longest ago to the last one.
        memory_limit: bytes for those that do not act; None for no limit.
        masks: regions that adapters are limited to.
        schedules: those that wait; the last one is for the next call, those before hold in a ``with`` block.
        following: the call that follows schedules just now.
        room: reserved room.
        attached: whether the engine is on the model.
    """

    components: Mapping[str, nn.Module]
    loaded: Mapping[str, Loaded] = field(default_factory=dict[str, Loaded])
    live: tuple[Dials, ...] = ({},)
    per_sample: bool = False
    guidance: int | None = None
    enabled: bool = True
    fused: Dials = field(default_factory=dict[str, Dial])
    backup: Backup = "cpu"
    frozen: frozenset[Place] = frozenset()
    resident: tuple[str, ...] = ()
    memory_limit: int | None = None
    masks: Masks = Masks()
    schedules: tuple[WaitingSchedule, ...] = ()
    following: Run | None = None
    room: Room = Room()
    attached: bool = True

    @property
    def acting(self) -> tuple[Dials, ...]:
        """The live sets with only those adapters that act; nothing acts while live adapters are disabled."""
        sets = list(self.live)
        for index, one in enumerate(sets):
            sets[index] = {name: dial for name, dial in one.items() if dial.acts and self.enabled}
        return tuple(sets)

    # ---- what is refused

    def known(self, name: str) -> str:
        """The name itself, of a loaded adapter.

        Raises:
            UnknownNameError: if there is none of that name.
        """
        if name not in self.loaded:
            raise UnknownNameError.choose("adapter", name, self.loaded)
        return name

    def check_not_fused(self, names: Iterable[str]) -> None:
        """Raise unless all of these may be live.

        Raises:
            UnknownNameError: if one is not loaded.
            StateError: if one is inside the weights.
        """
        for name in names:
            if self.known(name) in self.fused:
                raise StateError(
                    f"{name!r} is fused into the weights, so it cannot be live too. Call unfuse({name!r}) first, or "
                    "fuse it again to change its strength."
                )

    def check_fused(self, names: Iterable[str]) -> None:
        """Raise unless all of these are inside the weights.

        Raises:
            UnknownNameError: if one is not loaded.
            StateError: if one is not fused.
        """
        for name in names:
            if self.known(name) not in self.fused:
                raise StateError(f"{name!r} is not fused. Fused: {', '.join(self.fused) or 'none'}.")

    def check_not_masked(self, names: Iterable[str]) -> None:
        """Raise if one of these adapters is limited to a region.

        Raises:
            StateError: if so.
        """
        for name in names:
            if name in self.masks.by_name:
                raise StateError(
                    f"{name!r} is limited to a region, and inside the weights it would act everywhere. Leave it live, "
                    "or end its region first with loras.regions({})."
                )

    def free_name(self, source: Source, name: str | None, *, taken: bool) -> str:
        """The name for a new adapter: the given one, or one made from its source.

        Args:
            source: where it comes from.
            name: the given one.
            taken: whether another adapter may have that name, unless it is fused.

        Raises:
            StateError: if the name is taken.
            ConfigError: if it is empty.
        """
        if name is None:
            stem = Path(source).stem if isinstance(source, (str, Path)) else "adapter"
            tried = (stem if index == 1 else f"{stem}_{index}" for index in range(1, len(self.loaded) + 2))
            return next(free for free in tried if free not in self.loaded)
        if not name:
            raise ConfigError("an adapter's name must not be empty.")
        if name in self.loaded and not taken:
            raise StateError(
                f"an adapter named {name!r} is already loaded; remove it first, choose another name, or load with "
                "replace=True."
            )
        if name in self.loaded:
            self.check_not_fused([name])
        return name

    def check_shared(self, purpose: str) -> None:
        """Raise if every sample has adapters of its own.

        Raises:
            StateError: if so.
        """
        if self.per_sample:
            raise StateError(f"every sample has its own adapters (per_sample). Call set() before {purpose}.")

    # ---- other states

    def attached_to(self, components: Mapping[str, nn.Module]) -> State:
        """The state with the engine on these components."""
        return replace(self, components=components, attached=True)

    def with_masks(self, masks: Masks) -> State:
        """The state with these regions; those of adapters that are gone, or fused by now, are left out."""
        there = {name: mask for name, mask in masks.by_name.items() if name in self.loaded and name not in self.fused}
        return replace(self, masks=replace(masks, by_name=there))

    def dials(self, strengths: Mapping[str, Strength]) -> dict[str, Dial]:
        """Strengths of loaded adapters, resolved.

        Raises:
            UnknownNameError: if an adapter, component, block or module is unknown.
            ConfigError: if a strength is not a finite number.
        """
        dials: dict[str, Dial] = {}
        for name, value in strengths.items():
            dials[name] = Dial.of(value, self.loaded[self.known(name)].layers)
        return dials

    def with_loaded(self, name: str, loaded: Loaded, strength: Strength) -> State:
        """The state with one more adapter, live; or with another in the place of the one of that name."""
        live = {**self.live[0], name: Dial.of(strength, loaded.layers)}
        resident = tuple(one for one in self.resident if one != name)
        return replace(self, loaded={**self.loaded, name: loaded}, live=(live,), resident=resident)

    def with_live(self, live: Sequence[Dials], *, per_sample: bool = False, guidance: int | None = None) -> State:
        """The state with exactly these adapters live; schedules end."""
        return replace(self, live=tuple(live), per_sample=per_sample, guidance=guidance, schedules=(), following=None)

    def with_turned(self, strengths: Mapping[tuple[str, int | None], Strength]) -> State:
        """The state with other strengths of some adapters, which become live.

        Args:
            strengths: of an adapter in one sample of a batch or, without a number, wherever it is live; where samples
                have sets of their own, those are the samples that name it.

        Raises:
            UnknownNameError: if an adapter, component, block or module is unknown.
            ConfigError: if a strength is not a finite number.
            StateError: if one of the adapters is fused.
        """
        self.check_not_fused(name for name, _ in strengths)
        sets = [dict(one) for one in self.live]
        for (name, sample), value in strengths.items():
            dial = self.dials({name: value})
            for index, one in enumerate(sets):
                if not self.per_sample or index == sample or (sample is None and name in one):
                    one.update(dial)
        return replace(self, live=tuple(sets))

    def with_live_of(self, before: State) -> State:
        """The state with the live set and the schedules of an earlier one.

        Adapters that were removed or fused since stay so; one that was replaced gets the strength of its name.
        """
        live = tuple(
            self.dials(
                {name: dial.given for name, dial in one.items() if name in self.loaded and name not in self.fused}
            )
            for one in before.live
        )
        run = before.following
        following = None if run is None or run.over else run
        again = replace(self, live=live, per_sample=before.per_sample, guidance=before.guidance)
        return replace(again, schedules=before.schedules, following=following)

    def without_live(self, names: Iterable[str]) -> State:
        """The state with these adapters off, and held by no bank."""
        gone = set(names)
        live = tuple({name: dial for name, dial in one.items() if name not in gone} for one in self.live)
        return replace(self, live=live, resident=tuple(name for name in self.resident if name not in gone))

    def without(self, names: Iterable[str]) -> State:
        """The state without these adapters, their masks and their schedules."""
        gone = set(names)
        kept = {name: loaded for name, loaded in self.loaded.items() if name not in gone}
        masks = {name: mask for name, mask in self.masks.by_name.items() if name not in gone}
        schedules = (schedule.without(gone) for schedule in self.schedules)
        return replace(
            self.without_live(gone),
            loaded=kept,
            fused={name: dial for name, dial in self.fused.items() if name not in gone},
            masks=replace(self.masks, by_name=masks),
            schedules=tuple(schedule for schedule in schedules if schedule.courses),
        )

    def with_residents(self, size_of: Callable[[Loaded], int]) -> State:
        """The state in which banks hold all that acts and, within the limit, what acted last.

        Args:
            size_of: bytes that an adapter takes in the banks.
        """
        acting: dict[str, None] = {}
        for one in self.acting:
            acting.update(dict.fromkeys(one))
        others = dict.fromkeys(self.resident)
        for name in acting:
            others.pop(name, None)
        idle = list(others)
        if self.memory_limit is not None:
            room = self.memory_limit - sum(size_of(self.loaded[name]) for name in acting)
            kept: list[str] = []
            for name in reversed(idle):
                room -= size_of(self.loaded[name])
                if room < 0:
                    break
                kept.append(name)
            idle = kept[::-1]
        return replace(self, resident=(*idle, *acting))

    # ---- what the model is to hold

    def bank_at(self, place: Place) -> Wanted:
        """What the bank at a place is to hold."""
        layers = {
            name: loaded.layers[place]
            for name, loaded in self.loaded.items()
            if name in self.resident and place in loaded.layers
        }
        fused = any(place in self.loaded[name].layers for name in self.fused)
        return Wanted(layers, fused, self.room.rank if place in self.room.places else 0)

    def stands_as(self, other: State) -> bool:
        """Whether hooks and interceptions of another state are the same, and the same regions hold."""
        same = self.attached == other.attached and self.components is other.components
        return same and self.masks is other.masks and self.resident == other.resident

    def fused_at(self, place: Place) -> dict[str, tuple[AdapterLayer, float]]:
        """What the weight at a place is to hold: each adapter's layer and its strength there."""
        return {
            name: (self.loaded[name].layers[place], dial.at(place))
            for name, dial in self.fused.items()
            if place in self.loaded[name].layers
        }
