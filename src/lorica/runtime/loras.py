"""The adapters of one live pipeline: loaded, weighted, switched, fused, removed. Every operation is all or nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from torch import nn

from lorica.adapters import Adapter
from lorica.errors import ConfigError
from lorica.formats import read, write
from lorica.models.target import Target
from lorica.runtime.apply import LiveModel
from lorica.runtime.bank.batch import check_apart
from lorica.runtime.bank.reserve import places_to_reserve
from lorica.runtime.fusing.originals import Backup
from lorica.runtime.fusing.weights import check_alone, check_backup
from lorica.runtime.model.layers import index_layers
from lorica.runtime.model.plan import plan_load
from lorica.runtime.pipeline.schedule import Schedule
from lorica.runtime.pipeline.steps import WaitingSchedule
from lorica.runtime.regions.masks import Mask, mask_of
from lorica.runtime.scheduling import courses_of, with_staying, with_waiting, without_schedule
from lorica.runtime.state import Loaded, Masks, Room, Source, State
from lorica.runtime.strengths import Dial, Strength
from lorica.runtime.summary import Summary, described, given, summary_of
from lorica.runtime.undoable import Undoable, UndoableSchedule

Self = TypeVar("Self", bound="Loras")
Ending = TypeVar("Ending", bound=Undoable)


class Loras:
    """The adapters of a pipeline or module; made by :func:`lorica.attach`.

    A loaded adapter is live (it acts beside the weights, at a strength that can change at any moment), fused (it is
    inside the weights) or off.

    Args:
        model: the live model.
    """

    def __init__(self, model: LiveModel) -> None:
        self._model = model

    # ---- what is loaded

    @property
    def names(self) -> list[str]:
        """The loaded adapters, in the order of loading."""
        return list(self._state.loaded)

    @property
    def active(self) -> list[str]:
        """The live adapters; none of them acts while :meth:`disable` holds."""
        return list(dict.fromkeys(name for one in self._state.live for name in one))

    @property
    def strengths(self) -> dict[str, Strength]:
        """The strength of each live adapter, as it was given; none while :meth:`per_sample` holds."""
        return {} if self._state.per_sample else given(self._state.live[0])

    @property
    def fused(self) -> dict[str, Strength]:
        """The adapters inside the weights, and the strength that each was fused at."""
        return given(self._state.fused)

    @property
    def components(self) -> dict[str, nn.Module]:
        """The parts of the model that adapters can act on, by name."""
        return dict(self._model.components)

    def __getitem__(self, name: str) -> Adapter:
        """A loaded adapter as a value."""
        return self._state.loaded[self._state.known(name)].adapter

    def modules(self, name: str) -> dict[str, list[str]]:
        """What an adapter changes: component to the paths of its modules, as the live model has them."""
        found: dict[str, list[str]] = {}
        for component, path in self._state.loaded[self._state.known(name)].layers:
            found.setdefault(component, []).append(path)
        return found

    def target(self) -> Target:
        """Module paths and weight shapes of the live model, by which files are read and written."""
        return self._model.target(index_layers(self._model.components))

    def summary(self) -> Summary:
        """What is loaded, as a table to print: adapter, state, strength, components, modules, rank, memory."""
        return summary_of(self._state, self._model.weights.originals)

    def save(self, name: str, path: str | Path, format: str = "diffusers") -> Path:  # noqa: A002  # the public name
        """Write one loaded adapter to a file, whole or not at all. Returns the path."""
        return write(self[name], path, format=format, target=self.target())

    # ---- load and remove

    def load(self, source: Source, name: str | None = None, strength: Strength = 1.0, *, replace: bool = False) -> str:
        """Load an adapter and switch it on beside those already on. Returns its name.

        Args:
            source: a file, a folder, a Hub id, a state dict, or an :class:`~lorica.adapters.Adapter`.
            name: what to call it; by default the file's own name, made unique.
            strength: one number, or numbers by component, block and module.
            replace: whether it may take the place of the adapter of that name, if there is one, in one step: a hot
                swap. The old one stays if anything is wrong with the new one.

        Raises:
            StateError: if the name is taken, or is to be replaced and fused.
            LoRAError: if the file cannot be read or does not fit the model, which is then unchanged.
        """
        model = self._model
        with model.guard.changing():
            state = self._state.attached_to(components := model.calls.found_components(replace=not self.names))
            indices = index_layers(components)
            adapter = source if isinstance(source, Adapter) else read(source, target=model.target(indices))
            name = state.free_name(source, name, taken=replace)
            model.claim(components)
            model.check_live(components)
            state.check_shared("loading another adapter")
            loaded = Loaded(adapter, plan_load(adapter, indices, name))
            model.change(lambda _: state.with_loaded(name, loaded, strength))
        return name

    def remove(self, name: str) -> None:
        """Take one adapter off the model, out of the weights too if it is fused."""
        self._model.change(lambda state: state.without([state.known(name)]))

    def clear(self) -> None:
        """Take all adapters off the model. Per-sample sets and the limit on memory end too."""
        self._model.change(lambda state: replace(state.without(state.loaded).with_live([{}]), memory_limit=None))

    def detach(self, *, keep_fused: bool = False) -> None:
        """Take the engine off: the model is again what it was, bit for bit and key for key.

        What was fused with ``backup="none"`` stays in the weights.

        Args:
            keep_fused: whether all that is fused stays in the weights, which then are the model's own.
        """

        def bare(state: State) -> State:
            baked = frozenset(self._model.weights.fused) if keep_fused else state.frozen
            return State(state.components, frozen=baked, attached=False)

        self._model.change(bare)

    # ---- strengths

    def set(self, strengths: Mapping[str, Strength]) -> None:
        """Make exactly these adapters live, at these strengths; ``set({})`` leaves the base and what is fused.

        Raises:
            UnknownNameError: if an adapter, component, block or module is unknown; nothing is changed then.
            ConfigError: if a strength is not a finite number.
            StateError: if one of the adapters is fused.
        """

        def turned(state: State) -> State:
            self._model.check_live(state.components)
            dials = state.dials(strengths)
            state.check_not_fused(dials)
            return state.with_live([dials])

        self._model.change(turned)

    @contextmanager
    def using(self: Self, strengths: Mapping[str, Strength]) -> Iterator[Self]:
        """Within the ``with`` block make exactly these adapters live; then restore what was, also after an error."""
        with self._model.guard.holding():
            before = self._state
            try:
                try:
                    self.set(strengths)
                    yield self
                finally:
                    self._model.change(lambda state: state.with_live_of(before))
            except BaseException:  # perhaps restoring was interrupted
                self._model.change(lambda state: state.with_live_of(before))
                raise

    def per_sample(self, strengths: Sequence[Mapping[str, Strength]], guidance: int | None = None) -> None:
        """Give each sample of a batch its own live adapters, until the next :meth:`set`.

        A batch may be a multiple of the list: the list stands in it ``guidance`` times (the unconditional half before
        the conditional one), and then every entry is repeated in its place, for several pictures a prompt and for the
        frames that video models merge into the batch.

        Args:
            strengths: one mapping for each prompt, as :meth:`set` takes it.
            guidance: how often the pipeline repeats the whole list: 1 without classifier-free guidance and for
                pipelines that run its halves one after the other. A pipeline that is attached tells it by itself; where
                none does, None stands for 2 if the batch is an even multiple.

        Raises:
            UnknownNameError: if an adapter, component, block or module is unknown; nothing is changed then.
            ConfigError: if the list is empty, a strength is not a finite number, or ``guidance`` is not positive.
            StateError: if one of the adapters is fused, or acts on tokens whose sample cannot be told, or there are
                more sets than :meth:`reserve` set aside.
        """
        if not strengths or (guidance is not None and guidance < 1):
            raise ConfigError(f"per_sample needs a set for each sample, got {len(strengths)}, guidance {guidance}.")

        def turned(state: State) -> State:
            self._model.check_live(state.components)
            state.room.check_samples(len(strengths))
            sets: list[dict[str, Dial]] = []
            for one in strengths:
                state.check_not_fused(one)
                sets.append(state.dials(one))
            for name, dial in {name: dial for one in sets for name, dial in one.items()}.items():
                by_place = {place: dial.at(place) for place in state.loaded[name].layers}
                check_apart(self._model.components, name, by_place)
            return state.with_live(sets, per_sample=True, guidance=guidance)

        self._model.change(turned)

    def schedule(self, schedules: Mapping[str, Schedule] | Sequence[Mapping[str, Schedule]]) -> UndoableSchedule:
        """Make strengths follow the denoising steps of the next pipeline call; then all is as before, also on an error.

        The other adapters keep the strengths that they have. ``set`` ends a schedule that waits. In a ``with``
        statement the schedules hold for every call within the block. While :meth:`per_sample` holds, an adapter follows
        its schedule in the samples that name it, or each sample follows schedules of its own.

        Args:
            schedules: adapter to a list (one strength a step), a callable of progress in ``[0, 1]``, a
                :class:`~lorica.runtime.pipeline.schedule.Shape` (or its name, its settings), or a mapping from
                component to one of these or a strength. Text encoders run before the first step and take the first
                value. Or a list of such mappings, one for each sample.

        Raises:
            UnknownNameError: if an adapter, component or shape is unknown.
            ConfigError: if the mappings are not as many as the samples, or no sample names the adapter.
            StateError: if an adapter is fused, or no pipeline is attached.
        """
        key = object()

        def waiting(state: State) -> State:
            courses = courses_of(state, schedules, on_pipeline=bool(self._model.calls.pipelines))
            return with_waiting(state, WaitingSchedule(courses, key))

        undo = UndoableSchedule(
            end=lambda: self._model.change(lambda state: without_schedule(state, key)),
            enter=lambda: self._model.change(lambda state: with_staying(state, key)),
        )
        return self._begin(waiting, undo)

    def disable(self) -> None:
        """Turn every live adapter off until :meth:`enable`. Strengths are kept; what is fused stays fused."""
        self._model.change(lambda state: replace(state, enabled=False))

    def enable(self) -> None:
        """Turn the live adapters on again."""
        self._model.change(lambda state: replace(state, enabled=True))

    def regions(self, masks: Mapping[str, Mask], elsewhere: float = 1.0) -> Undoable:
        """Limit adapters to regions of the picture, until the next call; ``regions({})`` lets all act everywhere.

        A mask says where an adapter acts, and its strength how much; so :meth:`set`, schedules and the rest go on as
        they are. In a ``with`` statement the regions that held before hold again at the end of the block.

        Args:
            masks: adapter to a tensor ``(height, width)`` from 0 (off) to 1 (its whole strength), or a picture or its
                file, white where it acts. A mask covers the whole picture, at any resolution. Adapters not named act
                everywhere.
            elsewhere: what the strength is multiplied by in layers that do not act on the picture itself (the text's
                keys and values, text encoders, the time): 1 leaves them as they are, 0 keeps the adapter out of them.

        Raises:
            UnknownNameError: if an adapter is unknown.
            FileError: if a mask's file cannot be read.
            ShapeError: if a mask has other axes.
            ConfigError: if a mask's value is outside of 0 to 1, or ``elsewhere`` is not a finite number.
            StateError: if one of the adapters is fused.
        """
        before = self._state.masks
        self._state.check_not_fused(masks)
        if not math.isfinite(elsewhere):
            raise ConfigError(f"elsewhere must be a finite number, got {elsewhere!r}.")
        wanted = Masks({name: mask_of(mask, name) for name, mask in masks.items()}, elsewhere)
        undo = Undoable(lambda: self._model.change(lambda state: state.with_masks(before)))
        return self._begin(lambda state: state.with_masks(wanted), undo)

    # ---- fuse

    def fuse(self, strengths: Mapping[str, Strength], backup: Backup = "cpu") -> None:
        """Put adapters into the weights at these strengths, and take them out of the live set.

        Other fused adapters stay as they are; one that is fused already gets the new strength. Weights are computed
        from the originals in float32 with one rounding.

        Args:
            strengths: the adapters to fuse; those not named stay as they are.
            backup: where the originals of weights stay that nothing was fused into before: ``cpu`` keeps a copy in
                main memory; ``reload`` reads them again from the checkpoint that the component was loaded from (which
                is compared first); ``none`` gives them up, so that unfusing is refused.

        Raises:
            UnknownNameError: if an adapter, component, block, module or backup is unknown.
            ModelError: if a weight is quantised or away, a bias is missing, or the checkpoint does not hold it.
            StateError: if a weight was fused into without a backup, or an adapter is limited to a region. The model
                is unchanged after any error.
        """

        def fused(state: State) -> State:
            dials = state.dials(strengths)
            state.check_not_masked(dials)
            places = {place for name in dials for place in state.loaded[name].layers}
            check_alone(self._model.components, places)
            new = replace(state.without_live(dials), fused={**state.fused, **dials}, backup=check_backup(backup))
            return replace(new, frozen=state.frozen | places) if backup == "none" else new

        self._model.change(fused)

    def unfuse(self, *names: str) -> None:
        """Take adapters out of the weights (by default all that are fused); they are off until :meth:`set`.

        A weight that no fused adapter is left in is the original, bit for bit.

        Raises:
            StateError: if one of them is not fused; nothing is changed then.
        """

        def unfused(state: State) -> State:
            state.check_fused(names)
            gone = names or tuple(state.fused)
            return replace(state, fused={name: dial for name, dial in state.fused.items() if name not in gone})

        self._model.change(unfused)

    # ---- memory

    def reserve(self, rank: int, modules: str | Sequence[str] = "all", samples: int = 1) -> None:
        """Set room aside in every component, before ``torch.compile``: what is loaded later compiles nothing again.

        Adapters of any ranks whose sum stays within ``rank``, on any of these modules, can then be loaded, set and
        removed, and up to ``samples`` samples can have sets of their own. A file that needs more is refused, and the
        message says by how much.

        Args:
            rank: the rows set aside on each module, for all adapters together.
            modules: a preset (``attention``, ``attention+ff``, ``all-linear``, ``all``) or globs on module paths.
            samples: how many sets :meth:`per_sample` may be given.

        Raises:
            ConfigError: if the rank or the number of samples is not positive.
            UnknownNameError: if a preset or glob matches nothing.
            StateError: if what is loaded needs more.
        """
        if rank < 1:
            raise ConfigError(f"the reserved rank must be at least 1, got {rank}.")
        if samples < 1:
            raise ConfigError(f"the reserved samples must be at least 1, got {samples}.")

        def reserved(state: State) -> State:
            places = frozenset(places_to_reserve(self._model.components, modules))
            return replace(state, room=Room(rank, places, samples), attached=True)

        self._model.change(reserved)

    def limit_memory(self, size: int | None) -> None:
        """Bound the memory of adapters that are copied into the model's banks; those that act are always there.

        Of the others the ones that acted last are kept within the bound, so that switching back to them is quick;
        what is left out costs only its file, and is copied again when it is switched on.

        Args:
            size: bytes; 0 keeps only what acts; None, as it is at first, keeps all that ever acted.

        Raises:
            ConfigError: if it is negative.
        """
        if size is not None and size < 0:
            raise ConfigError(f"the memory of adapters must be 0 bytes or more, got {size}.")
        self._model.change(lambda state: replace(state, memory_limit=size))

    @property
    def _state(self) -> State:
        return self._model.state

    def _begin(self, make: Callable[[State], State], undo: Ending) -> Ending:
        """Change something that ends again, and end it at once if an interrupt comes before the caller has its end."""
        try:
            self._model.change(make)
            return undo  # noqa: TRY300  # an interrupt may come here too
        except BaseException:
            undo.end()
            raise

    def __repr__(self) -> str:
        return described(self._state)

    def __dir__(self) -> list[str]:
        """The public names, for the completion of editors and notebooks."""
        return [name for name in super().__dir__() if not name.startswith("_") or name.startswith("__")]
