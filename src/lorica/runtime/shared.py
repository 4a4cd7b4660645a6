"""Weights that several layers of a model share: a change inside one would be a change of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from lorica.errors import ModelError
from lorica.runtime.originals import LEAVES
from lorica.runtime.plan import Place
from lorica.runtime.served import layer_at


def check_alone(components: Mapping[str, nn.Module], places: Iterable[Place]) -> None:
    """Raise if another module has the weight or bias of one of these layers too, as tied embeddings have.

    Raises:
        ModelError: naming both.
    """
    wanted = {place: layer_at(components[place[0]], place[1]) for place in places}
    if not wanted:
        return
    owners: dict[int, set[str]] = {}
    for name, component in components.items():
        for path, module in component.named_modules():
            for parameter in module._parameters.values():  # pyright: ignore[reportPrivateUsage]
                if parameter is not None and parameter.device.type != "meta":
                    owners.setdefault(parameter.data_ptr(), set()).add(f"{name}.{path}")
    for place, layer in wanted.items():
        for leaf in LEAVES:
            held = layer._parameters.get(leaf)  # pyright: ignore[reportPrivateUsage]
            others = set[str]() if held is None else owners.get(held.data_ptr(), set()) - {".".join(place)}
            if held is not None and held.numel() and others:
                raise ModelError(
                    f"{'.'.join(place)}: its {leaf} is that of {min(others)} too, so what is inside it would act in "
                    "both, and an adapter is for one of them. Keep it live with set()."
                )
