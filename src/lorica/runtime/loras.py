"""The adapters of one live pipeline: loaded, weighted, switched, removed. Every operation is all or nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lorica.adapters import Adapter, Factors
from lorica.errors import ConfigError, StateError, UnknownNameError
from lorica.formats import read, write
from lorica.runtime.bank import CHILD, Bank
from lorica.runtime.plan import Place, plan_load
from lorica.runtime.strengths import Strength, resolve
from lorica.runtime.targets import target_of_components

OWNER = "_lorica_owner"  # the attribute by which a component knows its Loras

Source = str | Path | Mapping[str, Tensor] | Adapter
Resolved = dict[Place, float]


class Owner:
    """A component's reference to its :class:`Loras`. A copy of the component is on its own."""

    def __init__(self, loras: Loras | None) -> None:
        self.loras = loras

    def __deepcopy__(self, memo: dict[int, Any]) -> Owner:
        del memo
        return Owner(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Owner, (None,))


class Loras:
    """The adapters of a pipeline or module; made by :func:`lorica.attach`."""

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self.components = dict(components)
        self._adapters: dict[str, Adapter] = {}
        self._places: dict[str, dict[Place, Factors]] = {}
        self._strengths: dict[str, tuple[Strength, Resolved]] = {}  # only those that are on
        self._banks: dict[Place, tuple[Bank, RemovableHandle]] = {}
        self._enabled = True

    @property
    def names(self) -> list[str]:
        """The loaded adapters, in the order of loading."""
        return list(self._adapters)

    @property
    def active(self) -> list[str]:
        """The adapters that are on; none of them acts while :meth:`disable` holds."""
        return list(self._strengths)

    @property
    def strengths(self) -> dict[str, Strength]:
        """The strength of each adapter that is on, as it was given."""
        return {name: strength for name, (strength, _) in self._strengths.items()}

    def __getitem__(self, name: str) -> Adapter:
        """Return a loaded adapter as a value."""
        return self._adapters[self._known(name)]

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
        name = self._free_name(source, name)
        plan = plan_load(adapter, self.components, name)
        resolved = _resolve(strength, plan)
        self._rebuild({**self._places, name: plan}, changed=plan)
        self._adapters[name] = adapter
        self._strengths[name] = (strength, resolved)
        self._write_strengths(plan)
        return name

    def set(self, strengths: Mapping[str, Strength]) -> None:
        """Make exactly these adapters active, at these strengths; ``set({})`` gives the base model.

        Raises:
            UnknownNameError: if an adapter, component, block or module is unknown; nothing is changed then.
            ConfigError: if a strength is not a finite number.
        """
        wanted = {name: (value, _resolve(value, self._places[self._known(name)])) for name, value in strengths.items()}
        self._strengths = wanted
        self._write_strengths(self._banks)

    @contextmanager
    def using(self, strengths: Mapping[str, Strength]) -> Iterator[Loras]:
        """Within the ``with`` block make exactly these adapters active; then restore what was, also after an error."""
        before = self._strengths
        self.set(strengths)
        try:
            yield self
        finally:
            self._strengths = {name: value for name, value in before.items() if name in self._adapters}
            self._write_strengths(self._banks)

    def disable(self) -> None:
        """Turn every adapter off until :meth:`enable`; the model is the base. Strengths are kept."""
        self._enabled = False
        self._write_strengths(self._banks)

    def enable(self) -> None:
        """Turn the active adapters on again."""
        self._enabled = True
        self._write_strengths(self._banks)

    def remove(self, name: str) -> None:
        """Take one adapter off the model."""
        places = self._places[self._known(name)]
        self._rebuild({other: plan for other, plan in self._places.items() if other != name}, changed=places)
        self._strengths.pop(name, None)
        del self._adapters[name]
        self._write_strengths(places)

    def clear(self) -> None:
        """Take all adapters off the model."""
        for name in self.names:
            self.remove(name)

    def detach(self) -> None:
        """Take the engine off: the model is again what it was, bit for bit and key for key."""
        self.clear()

    def save(self, name: str, path: str | Path, format: str = "diffusers") -> Path:  # noqa: A002  # the public name
        """Write one loaded adapter to a file, whole or not at all. Returns the path."""
        return write(self[name], path, format=format, target=target_of_components(self.components))

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}: {self.strengths.get(name, 'off')}" for name in self.names)
        return f"Loras({listed or 'none loaded'}; components: {', '.join(self.components)})"

    def _known(self, name: str) -> str:
        if name not in self._adapters:
            raise UnknownNameError.choose("adapter", name, self._adapters)
        return name

    def _free_name(self, source: Source, name: str | None) -> str:
        if name is not None:
            if name in self._adapters:
                raise StateError(
                    f"an adapter named {name!r} is already loaded; remove it first or choose another name."
                )
            if not name:
                raise ConfigError("an adapter's name must not be empty.")
            return name
        stem = Path(source).stem if isinstance(source, (str, Path)) else "adapter"
        taken = (stem if index == 1 else f"{stem}_{index}" for index in range(1, len(self._adapters) + 2))
        return next(free for free in taken if free not in self._adapters)

    def _rebuild(self, places: dict[str, dict[Place, Factors]], changed: Mapping[Place, Any]) -> None:
        """Give each changed module the bank for ``places``: all new banks are made before the first is put in."""
        banks: dict[Place, Bank | None] = {}
        for place in changed:
            factors = {name: plan[place] for name, plan in places.items() if place in plan}
            banks[place] = Bank(self._layer(place), factors) if factors else None
        for place, bank in banks.items():
            self._put(place, bank)
        self._places = places
        self._mark_owner()
        _forget_compiled_graphs()

    def _put(self, place: Place, bank: Bank | None) -> None:
        layer = self._layer(place)
        if place in self._banks:
            self._banks.pop(place)[1].remove()
            delattr(layer, CHILD)
        if bank is not None:
            layer.add_module(CHILD, bank)
            self._banks[place] = (bank, layer.register_forward_hook(serve, with_kwargs=True))

    def _mark_owner(self) -> None:
        """Let the components know whose they are as long as any bank is in place."""
        for part in self.components.values():
            if self._banks:
                part.__dict__[OWNER] = Owner(self)
            else:
                part.__dict__.pop(OWNER, None)

    def _layer(self, place: Place) -> nn.Module:
        return self.components[place[0]].get_submodule(place[1])

    def _write_strengths(self, places: Mapping[Place, Any]) -> None:
        on = self._strengths if self._enabled else {}
        for place in places:
            if place in self._banks:
                self._banks[place][0].write({name: values.get(place, 0.0) for name, (_, values) in on.items()})


def _forget_compiled_graphs() -> None:
    """Make compiled models look again: their guards do not notice a hook that was added to or taken from a module."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def serve(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
    """Add what the layer's bank adds: the forward hook of every served layer."""
    return getattr(layer, CHILD)(args[0] if args else kwargs["input"], output)


def _resolve(strength: Strength, plan: Mapping[Place, Factors]) -> Resolved:
    modules: dict[str, list[str]] = {}
    for component, path in plan:
        modules.setdefault(component, []).append(path)
    by_component = resolve(strength, modules)
    return {(component, path): by_component[component][path] for component, path in plan}
