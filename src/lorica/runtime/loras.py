"""The adapters of one live pipeline: loaded, weighted, switched, fused, removed. Every operation is all or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from lorica.adapters import Adapter
from lorica.errors import ConfigError
from lorica.formats import read, write
from lorica.runtime.banks import Banks
from lorica.runtime.board import Row
from lorica.runtime.fuse import Change, Fused
from lorica.runtime.owner import mark
from lorica.runtime.plan import Place, plan_load
from lorica.runtime.reserve import places_to_reserve
from lorica.runtime.roster import Resolved, Roster, Source, resolve_plan
from lorica.runtime.strengths import Strength
from lorica.runtime.targets import layer_at, target_of_components


class Loras:
    """The adapters of a pipeline or module; made by :func:`lorica.attach`.

    A loaded adapter is live (it acts beside the weights, at a strength that can change at any moment), fused (it is
    inside the weights) or off.
    """

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self.components = dict(components)
        self._roster = Roster()
        self._fused = Fused(self._layer)
        self._banks = Banks(self._layer, self._fused.originals.get)
        self._enabled = True

    @property
    def names(self) -> list[str]:
        """The loaded adapters, in the order of loading."""
        return list(self._roster.adapters)

    @property
    def active(self) -> list[str]:
        """The live adapters; none of them acts while :meth:`disable` holds."""
        return list(self._roster.live)

    @property
    def strengths(self) -> dict[str, Strength]:
        """The strength of each live adapter, as it was given."""
        return {name: strength for name, (strength, _) in self._roster.live.items()}

    @property
    def fused(self) -> dict[str, Strength]:
        """The adapters inside the weights, and the strength that each was fused at."""
        return dict(self._roster.in_weights)

    def __getitem__(self, name: str) -> Adapter:
        """Return a loaded adapter as a value."""
        return self._roster.adapters[self._roster.known(name)]

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
        adapter = source if isinstance(source, Adapter) else read(source, target=target_of_components(self.components))
        roster, name = self._roster, self._roster.free_name(source, name)
        plan = plan_load(adapter, self.components, name)
        resolved = resolve_plan(strength, plan)
        prepared = self._banks.prepare({**roster.plans_beside(roster.in_weights), name: plan})
        self._banks.commit(prepared, self._rows({**roster.live, name: (strength, resolved)}))
        roster.add(name, adapter, plan, (strength, resolved))
        self._mark_components()
        return name

    def set(self, strengths: Mapping[str, Strength]) -> None:
        """Make exactly these adapters live, at these strengths; ``set({})`` leaves the base and what is fused.

        Raises:
            UnknownNameError: if an adapter, component, block or module is unknown; nothing is changed then.
            ConfigError: if a strength is not a finite number.
            StateError: if one of the adapters is fused.
        """
        self._roster.check_not_fused(strengths)
        self._turn(self._roster.resolved(strengths))

    @contextmanager
    def using(self, strengths: Mapping[str, Strength]) -> Iterator[Loras]:
        """Within the ``with`` block make exactly these adapters live; then restore what was, also after an error."""
        before = self._roster.live
        self.set(strengths)
        try:
            yield self
        finally:
            held = self._roster.plans_beside(self._roster.in_weights)
            self._turn({name: value for name, value in before.items() if name in held})

    def disable(self) -> None:
        """Turn every live adapter off until :meth:`enable`. Strengths are kept; what is fused stays fused."""
        self._switch(on=False)

    def enable(self) -> None:
        """Turn the live adapters on again."""
        self._switch(on=True)

    def fuse(self, strengths: Mapping[str, Strength]) -> None:
        """Put adapters into the weights at these strengths, and take them out of the live set.

        Other fused adapters stay as they are; one that is fused already gets the new strength. Weights are computed
        from the originals, which are kept on the CPU, in float32 with one rounding.

        Raises:
            UnknownNameError: if an adapter, component, block or module is unknown.
            ModelError: if a weight is quantised or away. The model is unchanged after any error.
        """
        resolved = {name: values for name, (_, values) in self._roster.resolved(strengths).items()}
        self._move({**self._roster.in_weights, **strengths}, self._changes_with(resolved))

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

    def remove(self, name: str) -> None:
        """Take one adapter off the model, out of the weights too if it is fused."""
        roster = self._roster
        if roster.known(name) in roster.in_weights:
            self.unfuse(name)
        others = {other: plan for other, plan in roster.plans_beside(roster.in_weights).items() if other != name}
        left = {other: value for other, value in roster.live.items() if other != name}
        self._banks.commit(self._banks.prepare(others), self._rows(left))
        roster.drop(name)
        self._mark_components()

    def clear(self) -> None:
        """Take all adapters off the model."""
        for name in self.names:
            self.remove(name)

    def detach(self) -> None:
        """Take the engine off: the model is again what it was, bit for bit and key for key."""
        if self.fused:
            self.unfuse()
        self._banks.commit(self._banks.prepare_nothing(), [{}])
        self._roster = Roster()
        self._mark_components()

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
        self._banks.commit(self._banks.prepare_room(places, rank), self._rows(self._roster.live))
        self._mark_components()

    def save(self, name: str, path: str | Path, format: str = "diffusers") -> Path:  # noqa: A002  # the public name
        """Write one loaded adapter to a file, whole or not at all. Returns the path."""
        return write(self[name], path, format=format, target=target_of_components(self.components))

    def __repr__(self) -> str:
        listed = [f"{name}: {self.strengths.get(name, 'off')}" for name in self.names if name not in self.fused]
        listed += [f"{name}: fused at {strength}" for name, strength in self.fused.items()]
        return f"Loras({', '.join(listed) or 'none loaded'}; components: {', '.join(self.components)})"

    def _layer(self, place: Place) -> nn.Module:
        return layer_at(self.components[place[0]], place[1])

    def _changes_with(self, resolved: Mapping[str, Resolved]) -> dict[Place, dict[str, Change]]:
        """Return what each place that these adapters change would hold if they were fused."""
        wanted: dict[Place, dict[str, Change]] = {}
        for name, values in resolved.items():
            for place, strength in values.items():
                held = wanted.setdefault(place, dict(self._fused.changes.get(place, {})))
                held[name] = (self._roster.plans[name][place], strength)
        return wanted

    def _move(self, in_weights: dict[str, Strength], wanted: dict[Place, dict[str, Change]]) -> None:
        """Move adapters between banks and weights: banks are made before a weight is touched, and put in after."""
        prepared = self._banks.prepare(self._roster.plans_beside(in_weights))
        live = {name: value for name, value in self._roster.live.items() if name not in in_weights}
        before = {place: dict(self._fused.changes.get(place, {})) for place in wanted}
        self._fused.put(wanted)
        try:
            self._banks.commit(prepared, self._rows(live))
        except BaseException:
            self._fused.put(before)
            raise
        self._roster.in_weights, self._roster.live = in_weights, live

    def _turn(self, live: Mapping[str, tuple[Strength, Resolved]]) -> None:
        """Make exactly these adapters live."""
        self._banks.write(self._rows(live))
        self._roster.live = dict(live)

    def _switch(self, *, on: bool) -> None:
        before, self._enabled = self._enabled, on
        try:
            self._turn(self._roster.live)
        except BaseException:
            self._enabled = before
            raise

    def _rows(self, live: Mapping[str, tuple[Strength, Resolved]]) -> list[Row]:
        """Return what the banks write: the strength of each live adapter in each layer, for all samples alike."""
        return [{name: values for name, (_, values) in live.items()} if self._enabled else {}]

    def _mark_components(self) -> None:
        """Let the components know whose they are as long as any adapter is loaded."""
        for part in self.components.values():
            mark(part, self if self.names or self._banks.reserved else None)
