"""Layers of a live model by place, and whether they still stand where adapters were put on them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lorica.errors import StateError
from lorica.models.target import Target
from lorica.runtime.model.supported_layers import is_supported, layer_at, weight_shape

Place = tuple[str, str]  # component, module path
BANK = "lorica_bank"  # the name of a bank among the children of the layer that it stands on

Watched = tuple[dict[str, Any], str, Any]  # an entry of a table, and what stands there as long as nothing changed


@dataclass(frozen=True, slots=True)
class LayerIndex:
    """The supported layers below one module.

    Args:
        root: the module.
        layers: by path; norms too.
        shapes: of the layers' weights.
    """

    root: nn.Module
    layers: Mapping[str, nn.Module]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, root: nn.Module) -> LayerIndex:
        """Index of the layers as they stand now."""
        layers = {path: module for path, module in _walk(root) if is_supported(module)}
        return cls(root, layers, {path: weight_shape(layer) for path, layer in layers.items()})

    def parent(self, path: str) -> nn.Module:
        """The module that holds a layer."""
        return layer_at(self.root, path.rpartition(".")[0])


def _walk(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module below one with its first path, as ``named_modules`` gives them, in a third of the time."""
    seen: set[nn.Module] = set()
    waiting: list[tuple[str, nn.Module]] = [("", root)]
    while waiting:
        path, module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        yield path, module
        prefix = f"{path}." if path else ""
        children = module._modules.items()  # pyright: ignore[reportPrivateUsage]
        waiting.extend((prefix + name, child) for name, child in reversed(children) if child is not None)


def index_layers(components: Mapping[str, nn.Module]) -> dict[str, LayerIndex]:
    """The layers of every component as they stand now."""
    return {name: LayerIndex.of(part) for name, part in components.items()}


def target_of_layers(indices: Mapping[str, LayerIndex], known: Target) -> Target:
    """Module paths and weight shapes, which files are read against; ``known`` itself if it says the same.

    The names that other programs have for the modules are generated once for each target, so it pays to keep one.
    """
    shapes = {name: index.shapes for name, index in indices.items()}
    return known if shapes == known.components else Target(known.name, shapes)


class HeldLayers:
    """Layers that carry something of ours: what was put on one is taken off that one, whatever stands there by then.

    Args:
        components: the model's parts by name, which may change.
    """

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self._components = components
        self._layers: dict[Place, nn.Module] = {}

    def find(self, place: Place) -> nn.Module:
        """The layer that carries something of ours or, at any other place, the one that stands there."""
        held = self._layers.get(place)
        return layer_at(self._components[place[0]], place[1]) if held is None else held

    def hold(self, places: Collection[Place]) -> None:
        """Remember the layers at these places, and no others."""
        if self._layers.keys() != set(places):
            self._layers = {place: self.find(place) for place in places}

    def check(self) -> list[Watched]:
        """Every step on the ways from the components to the layers, each once.

        Raises:
            StateError: naming a layer that is no longer a part of the model.
        """
        steps: dict[tuple[int, str], Watched] = {}
        for place, layer in self._layers.items():
            module: nn.Module | None = self._components[place[0]]
            for name in place[1].split(".") if place[1] else ():
                children = module._modules  # pyright: ignore[reportPrivateUsage]
                module = children.get(name)
                if module is None:
                    raise _replaced(place)
                steps.setdefault((id(children), name), (children, name, module))
            if module is not layer:
                raise _replaced(place)
        return list(steps.values())


def _replaced(place: Place) -> StateError:
    return StateError(
        f"the layer {'.'.join(place)} was replaced, or a module that holds it, after adapters were put on it, so they "
        "would not act there. Put the old one back, or call .detach() on the adapters and load them anew."
    )


def has_hook(module: nn.Module, hook: Callable[..., Any]) -> bool:
    """Whether a function is registered as a forward hook, or pre-hook, of a module."""
    return any(known is hook for table in _hooks_of(module) for known in table.values())


def remove_hook(module: nn.Module, hook: Callable[..., Any]) -> None:
    """Take a function off a module's forward hooks and pre-hooks.

    It is looked up rather than kept as a handle: an interrupt between registering a hook and storing its handle would
    leave one that nobody can take off.
    """
    own: Any = module
    before, after = _hooks_of(module)
    flags: dict[int, tuple[Any, ...]] = {id(before): (own._forward_pre_hooks_with_kwargs,)}
    flags[id(after)] = (own._forward_hooks_with_kwargs, own._forward_hooks_always_called)
    for table in (before, after):
        for number in [number for number, known in table.items() if known is hook]:
            for entries in (table, *flags[id(table)]):
                entries.pop(number, None)


def _hooks_of(module: nn.Module) -> tuple[dict[int, Any], dict[int, Any]]:
    return module._forward_pre_hooks, module._forward_hooks  # pyright: ignore[reportPrivateUsage]
