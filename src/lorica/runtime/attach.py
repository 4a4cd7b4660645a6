"""Put the engine on a pipeline or module, and take it off without a trace."""

from __future__ import annotations

import weakref
from typing import Any, cast

from torch import nn

from lorica.errors import StateError
from lorica.runtime.loras import Loras
from lorica.runtime.model.owner import owner_of
from lorica.runtime.model.targets import components_of

# First component to what was attached to it: a component that carries no adapter yet knows nobody.
_WAITING: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Loras]] = weakref.WeakKeyDictionary()


def attach(model: Any) -> Loras:
    """Return the adapters of a diffusers pipeline or of one module; calling it again returns the same object.

    Nothing is added to the model until the first adapter is loaded.

    Raises:
        ModelError: if it is neither a pipeline nor a module, or has no component that adapters act on.
        StateError: if one of its components already belongs to another attached pipeline, or is a copy of one.
    """
    components = components_of(model)
    owners = {
        name: cast("Loras | None", owner.loras)
        for name, part in components.items()
        if (owner := owner_of(part)) is not None
    }
    loras = next(iter(owners.values())) if owners else _waiting(model, components) or Loras(components)
    if loras is not None and _is_for(loras, model, components):
        loras.follow(model)
        _WAITING[next(iter(components.values()))] = weakref.ref(loras)
        return loras
    raise StateError(_conflict(components, owners))


def _is_for(loras: Loras, model: Any, components: dict[str, nn.Module]) -> bool:
    """Tell whether these are a model's adapters: it has the same components, or has since got more or lost some."""
    if loras.components == components:
        return True
    return loras.follows(model) and all(components.get(name, part) is part for name, part in loras.components.items())


def _waiting(model: Any, components: dict[str, nn.Module]) -> Loras | None:
    """Return what was attached to these components before, though nothing was loaded yet."""
    for part in components.values():
        loras = _WAITING.get(part, lambda: None)()
        if loras is not None and _is_for(loras, model, components):
            return loras
    return None


def _conflict(components: dict[str, nn.Module], owners: dict[str, Loras | None]) -> str:
    copies = [name for name, loras in owners.items() if loras is None]
    if copies:
        return (
            f"the component {copies[0]!r} is a copy of one that had adapters attached. The copy runs as it was when "
            "copied; to change its adapters, call .detach() on the original before copying."
        )
    return (
        f"the component {next(iter(owners))!r} already belongs to another attached pipeline or module, "
        f"whose components are not just {', '.join(components)}. Use that one's adapters, or call its .detach() first."
    )
