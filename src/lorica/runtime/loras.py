"""The adapters of one live pipeline: loaded, weighted, switched, fused, removed. Every operation is all or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from lorica.adapters import Adapter
from lorica.errors import ConfigError
from lorica.formats import read, write
from lorica.runtime.banks import Banks
from lorica.runtime.calls import Calls, Scheduled
from lorica.runtime.dials import Dials
from lorica.runtime.fuse import Change, Fused
from lorica.runtime.originals import Backup
from lorica.runtime.owner import check_owned, mark
from lorica.runtime.plan import Place, plan_load
from lorica.runtime.projections import check_projections
from lorica.runtime.reserve import places_to_reserve
from lorica.runtime.residents import Residents
from lorica.runtime.roster import Resolved, Roster, Samples, Source, resolve_plan
from lorica.runtime.schedule import Schedule, course_of
from lorica.runtime.served import layer_at
from lorica.runtime.strengths import Strength
from lorica.runtime.summary import Summary, bytes_of, lines_of
from lorica.runtime.targets import target_of_components
from lorica.runtime.turns import Turns, in_turn
from lorica.runtime.vocabulary import Vocabulary
from lorica.runtime.watch import Watch


class Loras:
    """The adapters of a pipeline or module; made by :func:`lorica.attach`.

    A loaded adapter is live (it acts beside the weights, at a strength that can change at any moment), fused (it is
    inside the weights) or off.
    """

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self.components = dict(components)
        self._roster = Roster()
        self._fused = Fused(self._layer, self.components)
        self._banks = Banks(self._layer, self._fused.originals.get)
        self._residents = Residents(self._banks)
        self._enabled = True
        self._turns = Turns()
        self._dials = Dials(self._roster, self._turn)
        self._calls = Calls(self._turns, self.components, self._dials, self._check_rows)
        self._vocabulary = Vocabulary(self.components, lambda: self._calls.pipelines)
        self.watch = Watch(self._turns, self._check_rows)

    @property
    def names(self) -> list[str]:
        """The loaded adapters, in the order of loading."""
        return list(self._roster.adapters)

    @property
    def active(self) -> list[str]:
        """The live adapters; none of them acts while :meth:`disable` holds."""
        live, samples = self._roster.live, self._roster.samples
        return list(dict.fromkeys(name for one in samples.sets for name in one) if samples else live)

    @property
    def strengths(self) -> dict[str, Strength]:
        """The strength of each live adapter, as it was given; none while :meth:`per_sample` holds."""
        return {name: strength for name, (strength, _) in self._roster.live.items()}

    @property
    def fused(self) -> dict[str, Strength]:
        """The adapters inside the weights, and the strength that each was fused at."""
        return dict(self._roster.in_weights)

    def __getitem__(self, name: str) -> Adapter:
        """Return a loaded adapter as a value."""
        return self._roster.adapters[self._roster.known(name)]

    @in_turn
    def load(self, source: Source, name: str | None = None, strength: Strength = 1.0) -> str:
        """Load an adapter and switch it on beside those already on. Returns its name.

        Args:
            source: a file, a folder, a Hub id, a state dict, or an :class:`~lorica.adapters.Adapter`.
            name: what to call it; by default the file's own name, made unique.
            strength: one number, or numbers by component, block and module.

        Raises:
            StateError: if the name is taken.
            LoRAError: if the file cannot be read or does not fit the model, which is then unchanged.
        """
        self._calls.pick_up(replace=not self.names)
        adapter = source if isinstance(source, Adapter) else read(source, target=target_of_components(self.components))
        roster, name = self._roster, self._roster.free_name(source, name)
        self._check_live()
        plan = plan_load(adapter, self.components, name)
        resolved = resolve_plan(strength, plan)
        roster.check_no_samples("loading another adapter")
        words = self._vocabulary.prepare(name, adapter.embeddings)
        live = {**roster.live, name: (strength, resolved)}
        self._residents.show({**roster.plans, name: plan}, self._rows(live))
        roster.add(name, adapter, plan, (strength, resolved))
        self._vocabulary.add(name, adapter.embeddings, words)
        self._mark_components()
        return name

    @in_turn
    def set(self, strengths: Mapping[str, Strength]) -> None:
        """Make exactly these adapters live, at these strengths; ``set({})`` leaves the base and what is fused.

        Raises:
            UnknownNameError: if an adapter, component, block or module is unknown; nothing is changed then.
            ConfigError: if a strength is not a finite number.
            StateError: if one of the adapters is fused.
        """
        self._check_live()
        self._roster.check_not_fused(strengths)
        self._turn(self._roster.resolved(strengths))
        self._calls.end()

    @contextmanager
    def using(self, strengths: Mapping[str, Strength]) -> Iterator[Loras]:
        """Within the ``with`` block make exactly these adapters live; then restore what was, also after an error."""
        with self._turns.holding():
            kept = self._dials.keep()
            self.set(strengths)
            try:
                yield self
            finally:
                self._dials.restore(kept)

    @in_turn
    def per_sample(self, strengths: Sequence[Mapping[str, Strength]], guidance: int | None = None) -> None:
        """Give each sample of a batch its own live adapters, until the next :meth:`set`.

        A batch may be a multiple of the list: the list stands in it ``guidance`` times (the unconditional half before
        the conditional one), and then every entry is repeated in its place, for several pictures a prompt and for the
        frames that video models merge into the batch.

        Args:
            strengths: one mapping for each prompt, as :meth:`set` takes it.
            guidance: how often the pipeline repeats the whole list: 1 without classifier-free guidance and for
                pipelines that run its halves one after the other; None stands for 2 if the batch is an even multiple.

        Raises:
            UnknownNameError: if an adapter, component, block or module is unknown; nothing is changed then.
            ConfigError: if the list is empty, a strength is not a finite number, or ``guidance`` is not positive.
            StateError: if one of the adapters is fused.
        """
        if not strengths or (guidance is not None and guidance < 1):
            raise ConfigError(f"per_sample needs a set for each sample, got {len(strengths)}, guidance {guidance}.")
        self._check_live()
        for one in strengths:
            self._roster.check_not_fused(one)
        self._turn({}, Samples(tuple(self._roster.resolved(one) for one in strengths), guidance))
        self._calls.end()

    @in_turn
    def schedule(self, schedules: Mapping[str, Schedule]) -> Scheduled:
        """Let strengths follow the denoising steps of the next pipeline call; then all is as before, also on an error.

        The other adapters keep the strengths that they have. ``set`` ends a schedule that waits. In a ``with``
        statement the schedules hold for every call within the block.

        Args:
            schedules: adapter to a list (one strength a step), a callable of progress in ``[0, 1]``, a
                :class:`~lorica.runtime.schedule.Shape` (or its name, or its settings), or a mapping from component to
                one of these or a strength. Text encoders run before the first step and take the first value.

        Raises:
            UnknownNameError: if an adapter, component or shape is unknown.
            StateError: if an adapter is fused, or no pipeline is attached.
        """
        self._roster.check_not_fused(schedules)
        self._roster.check_no_samples("following a schedule")
        parts = {name: list(dict.fromkeys(part for part, _ in self._roster.plans[name])) for name in schedules}
        return self._calls.schedule({name: (course_of(v, parts[name]), parts[name]) for name, v in schedules.items()})

    @in_turn
    def disable(self) -> None:
        """Turn every live adapter off until :meth:`enable`. Strengths are kept; what is fused stays fused."""
        self._switch(on=False)

    @in_turn
    def enable(self) -> None:
        """Turn the live adapters on again."""
        self._switch(on=True)

    @in_turn
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
            StateError: if a weight was fused into without a backup. The model is unchanged after any error.
        """
        resolved = {name: values for name, (_, values) in self._roster.resolved(strengths).items()}
        self._move(
            {**self._roster.in_weights, **strengths}, self._fused.with_more(resolved, self._roster.plans), backup=backup
        )

    @in_turn
    def unfuse(self, *names: str) -> None:
        """Take adapters out of the weights (by default all that are fused); they are off until :meth:`set`.

        A weight that no fused adapter is left in is the original, bit for bit.

        Raises:
            StateError: if one of them is not fused; nothing is changed then.
        """
        self._roster.check_fused(names)
        gone = names or tuple(self._roster.in_weights)
        kept = {name: strength for name, strength in self._roster.in_weights.items() if name not in gone}
        self._move(kept, self._fused.without(gone))

    @in_turn
    def remove(self, name: str) -> None:
        """Take one adapter off the model, out of the weights too if it is fused."""
        self._roster.known(name)
        kept = {other: value for other, value in self._roster.in_weights.items() if other != name}
        self._move(kept, self._fused.without([name]), gone=[name])

    @in_turn
    def clear(self) -> None:
        """Take all adapters off the model."""
        for name in self.names:
            self.remove(name)

    @in_turn
    def detach(self) -> None:
        """Take the engine off: the model is again what it was, bit for bit and key for key.

        What was fused with ``backup="none"`` stays in the weights.
        """
        self._move({}, self._fused.without(self.names, lost=False), gone=self.names, bare=True)
        self._fused.let_be()

    @in_turn
    def reserve(self, rank: int, modules: str | Sequence[str] = "all") -> None:
        """Set room aside in every component, before ``torch.compile``: what is loaded later compiles nothing again.

        Adapters of any ranks whose sum stays within ``rank``, on any of these modules, can then be loaded, set and
        removed. A file that needs more is refused, and the message says by how much.

        Args:
            rank: the rows set aside on each module, for all adapters together.
            modules: a preset (``attention``, ``attention+ff``, ``all-linear``, ``all``) or globs on module paths.

        Raises:
            ConfigError: if the rank is not positive.
            UnknownNameError: if a preset or glob matches nothing.
        """
        if rank < 1:
            raise ConfigError(f"the reserved rank must be at least 1, got {rank}.")
        places = places_to_reserve(self.components, modules)
        rows = self._rows(self._roster.live, self._roster.samples)
        self._banks.commit(self._banks.prepare_room(places, rank), rows, _guidance(self._roster.samples))
        self._mark_components()

    @in_turn
    def limit_memory(self, size: int | None) -> None:
        """Bound the memory of adapters that are copied into the model's banks; those that act are always there.

        Of the others the ones that acted last are kept within the bound, so that switching back to them is quick;
        what is left out costs only its mapped file, and is copied again when it is switched on.

        Args:
            size: bytes; 0 keeps only what acts; None, as it is at first, keeps all that ever acted.

        Raises:
            ConfigError: if it is negative.
        """
        if size is not None and size < 0:
            raise ConfigError(f"the memory of adapters must be 0 bytes or more, got {size}.")
        self._residents.limit = size
        self._turn(self._roster.live, self._roster.samples)

    def save(self, name: str, path: str | Path, format: str = "diffusers") -> Path:  # noqa: A002  # the public name
        """Write one loaded adapter to a file, whole or not at all. Returns the path."""
        return write(self[name], path, format=format, target=target_of_components(self.components))

    def summary(self) -> Summary:
        """Return what is loaded, as a table to print: adapter, state, strength, components, modules, rank, memory."""
        kept = (tensor for held in self._fused.originals.kept.values() for tensor in held.values())
        return Summary(lines_of(self._roster), bytes_of(kept), self._enabled)

    def __repr__(self) -> str:
        listed = [f"{name}: {self.strengths.get(name, 'off')}" for name in self.names if name not in self.fused]
        listed += [f"{name}: fused at {strength}" for name, strength in self.fused.items()]
        return f"Loras({', '.join(listed) or 'none loaded'}; components: {', '.join(self.components)})"

    def follow(self, pipeline: Any) -> None:
        """Let schedules and turns among threads follow this pipeline's calls too; :func:`lorica.attach` does it."""
        self._calls.follow(pipeline)
        self._calls.pick_up(replace=not self.names)

    def follows(self, model: Any) -> bool:
        """Tell whether this pipeline's calls are followed."""
        return any(model is pipeline for pipeline in self._calls.pipelines)

    def _layer(self, place: Place) -> nn.Module:
        return layer_at(self.components[place[0]], place[1])

    def _move(
        self,
        in_weights: dict[str, Strength],
        wanted: dict[Place, dict[str, Change]],
        *,
        backup: Backup = "cpu",
        gone: Sequence[str] = (),
        bare: bool = False,
    ) -> None:
        """Move adapters between banks and weights, and off the model; ``bare`` leaves no bank, reserved or not."""
        self._check_rows()
        roster, away = self._roster, {*in_weights, *gone}
        live = {name: value for name, value in roster.live.items() if name not in away}
        samples = roster.samples and roster.samples.without(away)
        before = {place: dict(self._fused.changes.get(place, {})) for place in wanted}
        self._fused.put(wanted, backup)
        try:
            if bare:
                self._banks.commit(self._banks.prepare_nothing(), [{}])
            else:
                rows = self._rows(live, samples)
                self._residents.show(roster.plans, rows, gone=away, guidance=_guidance(samples))
        except BaseException:
            self._fused.put(before)
            raise
        self._fused.settle(wanted, backup)
        roster.in_weights, roster.live, roster.samples = in_weights, live, samples
        for name in gone:
            roster.drop(name)
            self._vocabulary.remove(name)
        self._mark_components()

    def _turn(self, live: Mapping[str, tuple[Strength, Resolved]], samples: Samples | None = None) -> None:
        """Make exactly these adapters live, for all samples alike or for each its own."""
        self._residents.show(self._roster.plans, self._rows(live, samples), guidance=_guidance(samples))
        self._roster.live, self._roster.samples = dict(live), samples
        self._look_around()

    def _switch(self, *, on: bool) -> None:
        before, self._enabled = self._enabled, on
        try:
            self._turn(self._roster.live, self._roster.samples)
        except BaseException:
            self._enabled = before
            raise

    def _rows(
        self, live: Mapping[str, tuple[Strength, Resolved]], samples: Samples | None = None
    ) -> list[dict[str, Resolved]]:
        """Return what the banks write: the strength of each live adapter in each layer, a row for each sample."""
        sets = samples.sets if samples else (live,)
        return [{name: values for name, (_, values) in one.items()} if self._enabled else {} for one in sets]

    def _mark_components(self) -> None:
        """Let the components know whose they are as long as any adapter is loaded."""
        for part in self.components.values():
            mark(part, self if self.names or self._banks.reserved else None)
        self._calls.listen(on=bool(self.names))
        self._look_around()

    def _look_around(self) -> None:
        """Stand around forwards as long as banks hold anything: what is fused costs nothing."""
        if self._banks.plans or self._banks.reserved:
            self.watch.begin(list(self.components.values()), self._banks.plans)
        else:
            self.watch.end()

    def _check_live(self) -> None:
        """Raise if adapters would not act where they were put, or the model is not all this one's."""
        for part in self.components.values():
            check_owned(part, self)
        self._calls.check_components()
        self._check_rows()

    def _check_rows(self) -> None:
        check_projections({*self._banks.places, *self._fused.changes}, self.components)


def _guidance(samples: Samples | None) -> int | None:
    return samples.guidance if samples else None
