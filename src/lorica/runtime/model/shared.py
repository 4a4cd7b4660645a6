"""Weights that several layers of a model share: a change inside one would be a change of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from lorica.errors import ModelError
from lorica.runtime.fusing.originals import LEAVES
from lorica.runtime.model.plan import Place
from lorica.runtime.model.supported_layers import layer_at

Owned = tuple[Place, str]  # where a module stands, and what it calls the parameter


def check_alone(components: Mapping[str, nn.Module], places: Iterable[Place]) -> None:
    """Raise if another module has the weight or bias of one of these layers too, as tied embeddings have.

    Raises:
        ModelError: naming both.
    """
    mine: dict[int, Owned] = {}
    for place in dict.fromkeys(places):
        held = _held(layer_at(components[place[0]], place[1]))
        mine.update((address, (place, leaf)) for leaf, address in held if leaf in LEAVES)
    for name, component in components.items():
        for path, module in component.named_modules():
            for leaf, address in _held(module):
                place, own = mine.get(address, ((name, path), leaf))
                if (place, own) != ((name, path), leaf):
                    raise ModelError(
                        f"{'.'.join(place)}: its {own} is that of {name}.{path} too, so what is inside it would act in "
                        "both, and an adapter is for one of them. Keep it live with set()."
                    )


def _held(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield the names of a module's own parameters, and where in memory their numbers are."""
    for leaf, parameter in module._parameters.items():  # pyright: ignore[reportPrivateUsage]
        if parameter is not None and parameter.device.type != "meta" and parameter.numel():
            yield leaf, parameter.data_ptr()
