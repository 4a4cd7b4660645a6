"""Adapters inside the base weights, and out again bit for bit.

The first fuse of a weight keeps its original; every later fuse or unfuse computes the weight anew from it, in float32,
with one rounding: ``W' = round(W + sum of strength * delta(W))``. So nothing drifts, and order does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from lorica.adapters import AdapterLayer
from lorica.errors import ModelError
from lorica.runtime.plan import Place

Change = tuple[AdapterLayer, float]  # what is fused into one weight, and how strongly


@dataclass(slots=True)
class Fused:
    """What is fused into the weights of one model.

    Args:
        find: returns the layer at a place.
        originals: the weights as they were, for every place that holds a fused adapter.
        changes: what each place holds, by the adapter's name.
    """

    find: Callable[[Place], nn.Module]
    originals: dict[Place, Tensor] = field(default_factory=dict[Place, Tensor])
    changes: dict[Place, dict[str, Change]] = field(default_factory=dict[Place, dict[str, Change]])

    def put(self, wanted: Mapping[Place, Mapping[str, Change]]) -> None:
        """Make the named places hold exactly these changes, all of them or, on an error, none.

        Raises:
            ModelError: if a weight cannot be changed: it is quantised, or away with an offload hook.
        """
        for place in wanted:
            _check_plain(".".join(place), _weight(self.find(place)))
        before = {place: dict(self.changes.get(place, {})) for place in wanted}
        done: list[Place] = []
        try:
            for place, changes in wanted.items():
                done.append(place)
                self._write(place, changes)
        except BaseException:
            for place in done:
                self._write(place, before[place])
            raise

    def without(self, names: Iterable[str]) -> dict[Place, dict[str, Change]]:
        """Return what every place would hold without these adapters, for the places that hold any of them."""
        gone = set(names)
        return {
            place: {name: change for name, change in changes.items() if name not in gone}
            for place, changes in self.changes.items()
            if gone & changes.keys()
        }

    def _write(self, place: Place, changes: Mapping[str, Change]) -> None:
        weight = _weight(self.find(place))
        if not changes:
            self.changes.pop(place, None)
            if place in self.originals:
                weight.copy_(self.originals.pop(place))
            return
        if place not in self.originals:
            self.originals[place] = weight.detach().to("cpu", copy=True)
        original = self.originals[place].to(weight.device)
        weight.copy_(changed_weight(original, changes.values()))
        self.changes[place] = dict(changes)


@torch.no_grad()
def changed_weight(original: Tensor, changes: Iterable[Change]) -> Tensor:
    """Return ``W + sum of strength * delta(W)`` in float32, every delta that of the original weight.

    Changes with thin factors are stacked along the rank, so that several cost one matrix product.
    """
    total = original.to(torch.float32, copy=True)
    downs: list[Tensor] = []
    ups: list[Tensor] = []
    for layer, strength in changes:
        factors = layer.factors()
        if factors is None:
            total.add_(layer.delta(original).view(original.shape).to(total.device), alpha=strength)
            continue
        downs.append(factors.down.to(total.device, torch.float32).flatten(1))
        ups.append(factors.up.to(total.device, torch.float32) * (strength * factors.scaling))
    if downs:
        total.flatten(1).addmm_(torch.cat(ups, dim=1), torch.cat(downs))  # a view: changes ``total``
    return total


def _weight(layer: nn.Module) -> Tensor:
    return cast("nn.Parameter", layer.weight).data


def _check_plain(where: str, weight: Tensor) -> None:
    if weight.device.type == "meta":
        raise ModelError(
            f"{where}: its weight is away (an offload hook holds it), so nothing can be fused into it. "
            "Fuse before enabling offload, or keep the adapter live with set()."
        )
    if not weight.is_floating_point() or weight.element_size() < 2:
        raise ModelError(
            f"{where}: its weight is quantised ({weight.dtype}); fusing would round the adapter away. "
            "Keep the adapter live with set(), which costs little and loses nothing."
        )
