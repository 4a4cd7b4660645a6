"""Who is loaded: each adapter's value, its plan, and whether it is live, inside the weights or off."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lorica.adapters import Adapter
from lorica.errors import ConfigError, StateError, UnknownNameError
from lorica.runtime.everywhere import Everywhere
from lorica.runtime.model.plan import Place, Plan
from lorica.runtime.strengths import Strength, resolve

Source = str | Path | Mapping[str, Tensor] | Adapter
Resolved = Mapping[Place, float]  # the strength in each layer that an adapter changes


@dataclass(frozen=True, slots=True)
class Samples:
    """A set of live adapters for each sample of a batch.

    Args:
        sets: for each sample, the strength of each adapter as it was given and in each layer.
        guidance: how often the list of samples stands in a batch, if that is known.
    """

    sets: tuple[dict[str, tuple[Strength, Resolved]], ...]
    guidance: int | None = None

    def without(self, names: Iterable[str]) -> Samples:
        """Return the same without some adapters."""
        gone = set(names)
        return Samples(tuple({n: v for n, v in one.items() if n not in gone} for one in self.sets), self.guidance)


@dataclass(slots=True)
class Roster:
    """The adapters of one pipeline by name, in the order of loading. It knows; it touches no model.

    Args:
        adapters: every loaded adapter as a value.
        plans: what each changes, by the live model's own paths.
        live: the strength of each live adapter, as it was given and in each layer.
        in_weights: the strength that each fused adapter was fused at.
        samples: in the place of ``live``, which is empty then, a set for each sample.
    """

    adapters: dict[str, Adapter] = field(default_factory=dict[str, Adapter])
    plans: dict[str, Plan] = field(default_factory=dict[str, Plan])
    live: dict[str, tuple[Strength, Resolved]] = field(default_factory=dict[str, tuple[Strength, Resolved]])
    in_weights: dict[str, Strength] = field(default_factory=dict[str, Strength])
    samples: Samples | None = None

    def keep(self) -> Roster:
        """Return a copy, for :meth:`restore`."""
        return Roster(dict(self.adapters), dict(self.plans), dict(self.live), dict(self.in_weights), self.samples)

    def restore(self, kept: Roster) -> None:
        """Know again what was kept."""
        self.adapters, self.plans, self.live = kept.adapters, kept.plans, kept.live
        self.in_weights, self.samples = kept.in_weights, kept.samples

    def known(self, name: str) -> str:
        """Return the name itself if an adapter has it.

        Raises:
            UnknownNameError: if none does.
        """
        if name not in self.adapters:
            raise UnknownNameError.choose("adapter", name, self.adapters)
        return name

    def free_name(self, source: Source, name: str | None, *, replace: bool = False) -> str:
        """Return the name for a new adapter: the given one, or one made from its source.

        Args:
            source: where it comes from.
            name: the given one.
            replace: whether another adapter may have that name, unless it is fused.

        Raises:
            StateError: if the name is taken.
            ConfigError: if it is empty.
        """
        if name is not None:
            if replace and name in self.adapters:
                self.check_not_fused([name])
            elif name in self.adapters:
                raise StateError(
                    f"an adapter named {name!r} is already loaded; remove it first, choose another name, or load with "
                    "replace=True."
                )
            if not name:
                raise ConfigError("an adapter's name must not be empty.")
            return name
        stem = Path(source).stem if isinstance(source, (str, Path)) else "adapter"
        taken = (stem if index == 1 else f"{stem}_{index}" for index in range(1, len(self.adapters) + 2))
        return next(free for free in taken if free not in self.adapters)

    def add(self, name: str, adapter: Adapter, plan: Plan, live: tuple[Strength, Resolved]) -> None:
        """Enter a new adapter, live."""
        self.adapters[name], self.plans[name], self.live[name] = adapter, plan, live

    def drop(self, name: str) -> None:
        """Forget an adapter."""
        for known in (self.adapters, self.plans, self.live, self.in_weights):
            known.pop(name, None)
        self.samples = self.samples and self.samples.without([name])

    def check_not_fused(self, names: Iterable[str]) -> None:
        """Raise unless all of these may be live.

        Raises:
            UnknownNameError: if one is not loaded.
            StateError: if one is inside the weights.
        """
        for name in names:
            if self.known(name) in self.in_weights:
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
            if self.known(name) not in self.in_weights:
                raise StateError(f"{name!r} is not fused. Fused: {', '.join(self.in_weights) or 'none'}.")

    def check_no_samples(self, purpose: str) -> None:
        """Raise if every sample has adapters of its own.

        Raises:
            StateError: if so.
        """
        if self.samples is not None:
            raise StateError(f"every sample has its own adapters (per_sample). Call set() before {purpose}.")

    def resolved(self, strengths: Mapping[str, Strength]) -> dict[str, tuple[Strength, Resolved]]:
        """Return each strength as it was given and in each layer.

        Raises:
            UnknownNameError: if an adapter, component, block or module is unknown.
            ConfigError: if a strength is not a finite number.
        """
        kept = copy.deepcopy(dict(strengths))  # the caller may go on changing the mappings within
        return {name: (value, resolve_plan(value, self.plans[self.known(name)])) for name, value in kept.items()}

    def plans_beside(self, in_weights: Mapping[str, Strength]) -> dict[str, Plan]:
        """Return the plans of the adapters that banks hold: those that are not in the weights."""
        return {name: plan for name, plan in self.plans.items() if name not in in_weights}


def resolve_plan(strength: Strength, plan: Plan) -> Resolved:
    """Return the strength in each layer of a plan.

    Raises:
        UnknownNameError: if a component, block or module is unknown.
        ConfigError: if a strength is not a finite number.
    """
    if not isinstance(strength, Mapping):
        return Everywhere(plan, resolve(strength, {"": [""]})[""][""])
    modules: dict[str, list[str]] = {}
    for component, path in plan:
        modules.setdefault(component, []).append(path)
    by_component = resolve(strength, modules)
    return {(component, path): by_component[component][path] for component, path in plan}
