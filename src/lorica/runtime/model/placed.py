"""The layers that adapters were put on, and whether the model still has them where they stood."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from lorica.errors import StateError
from lorica.runtime.model.plan import Place
from lorica.runtime.model.supported_layers import layer_at

Step = tuple[dict[str, nn.Module | None], str, nn.Module, Place]  # a module's children, one's name, it, what is below


class Placed:
    """Remembers layers by place: what was put on one is taken off that one, whatever stands there by then.

    Args:
        components: the model's parts by name, which may change.
    """

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self._components = components
        self._layers: dict[Place, nn.Module] = {}
        self._steps: list[Step] | None = None

    def find(self, place: Place) -> nn.Module:
        """Return the layer that adapters were put on or, of another place, the one that stands there."""
        held = self._layers.get(place)
        return layer_at(self._components[place[0]], place[1]) if held is None else held

    def hold(self, places: Collection[Place]) -> None:
        """Remember the layers at these places, and no others."""
        self._layers = {place: self.find(place) for place in places}
        self._steps = None

    def check(self) -> None:
        """Raise if one of the layers is no longer a part of the model.

        Raises:
            StateError: naming it.
        """
        if self._steps is None:
            self._steps = self._walk()
        for children, name, child, place in self._steps:
            if children.get(name) is not child:
                raise _replaced(place)

    def _walk(self) -> list[Step]:
        """Return every step on the ways from the components to the layers, each once."""
        steps: dict[tuple[int, str], Step] = {}
        for place, layer in self._layers.items():
            module: nn.Module | None = self._components[place[0]]
            for name in place[1].split(".") if place[1] else ():
                children = module._modules  # pyright: ignore[reportPrivateUsage]
                module = children.get(name)
                if module is None:
                    raise _replaced(place)
                steps.setdefault((id(children), name), (children, name, module, place))
            if module is not layer:
                raise _replaced(place)
        return list(steps.values())


def _replaced(place: Place) -> StateError:
    return StateError(
        f"the layer {'.'.join(place)} was replaced, or a module that holds it, after adapters were put on it, so they "
        "would not act there. Put the old one back, or call .detach() on the adapters and load them anew."
    )
