"""The base weights of one model: what is fused into each, its original, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from lorica.errors import ModelError, StateError, UnknownNameError
from lorica.runtime.fusing.fuse import WRITERS, Changes
from lorica.runtime.fusing.memory import SpareMemory
from lorica.runtime.fusing.originals import (
    BACKUPS,
    Backup,
    Originals,
    StoredOriginal,
    check_readable,
    find_stored,
)
from lorica.runtime.model.layers import Place
from lorica.runtime.model.supported_layers import LEAVES, base_tensor, layer_at

GivenUp = tuple["Originals | None", "Changes | None"]  # the originals at a place, and what is fused there


class Weights:
    """What is fused into the weights of one model.

    The first fuse of a weight keeps its original; every later fuse or unfuse computes the weight anew from it.

    Args:
        find: the layer at a place.
        components: the model's parts by name.

    Attributes:
        fused: record of what each weight holds, by place and adapter. It is cleared before a weight is written, so that
            an operation that breaks off leaves no wrong record.
        originals: the weights (and biases) of those places before.
        spare: memory for the next fuse.
    """

    def __init__(self, find: Callable[[Place], nn.Module], components: Mapping[str, nn.Module]) -> None:
        self._find, self._components = find, components
        self.fused: dict[Place, Changes] = {}
        self.originals: dict[Place, Originals] = {}
        self.spare = SpareMemory()

    def base(self, place: Place, leaf: str, why: str) -> Tensor | None:
        """A layer's weight or bias without anything fused into it, as numbers; None for a bias that is not there."""
        layer, kept = self._find(place), self.originals.get(place, {}).get(leaf)
        if isinstance(kept, StoredOriginal):
            return kept.read(_parameter(layer, leaf).data)
        return base_tensor(layer, leaf, why) if kept is None else kept

    def check(self, wanted: Mapping[Place, Changes]) -> None:
        """Raise unless these weights can be made to hold this.

        Raises:
            ModelError: if a weight is quantised or away with an offload hook, or a bias is missing.
            StateError: if a weight was fused into without a backup.
            FileError: if the checkpoint no longer holds an original that would be read from it.
        """
        lost = [".".join(place) for place in wanted if place in self.fused and place not in self.originals]
        if lost:
            raise StateError(
                f"{len(lost)} weights, such as {lost[0]}, were fused with backup='none', so their originals are gone: "
                "nothing can be taken out of them or added. Load the base model again to go back; fuse with "
                "backup='cpu' or 'reload' to keep the way open."
            )
        held = (one for place in wanted for one in self.originals.get(place, {}).values())
        check_readable([one for one in held if isinstance(one, StoredOriginal)])
        for place, changes in wanted.items():
            layer, where = self._find(place), ".".join(place)
            _check_plain(where, _parameter(layer, "weight").data)
            if "bias" in _leaves_of(layer, changes) and getattr(layer, "bias", None) is None:
                raise ModelError(
                    f"{where}: the adapter changes its bias, but it has none, so there is nothing to fuse that into. "
                    "Keep the adapter live with set()."
                )

    def expect_stored(self, wanted: Mapping[Place, Changes]) -> None:
        """Take originals from the checkpoint instead of keeping them, where none is kept yet (``backup="reload"``).

        Raises:
            ModelError: if the checkpoint does not hold a weight exactly as it is now.
        """
        for name, component in self._components.items():
            places = {
                place: _leaves_of(self._find(place), changes)
                for place, changes in wanted.items()
                if place[0] == name and place not in self.originals
            }
            self.originals.update(find_stored(component, places) if places else {})

    @torch.no_grad()
    def write(self, place: Place, changes: Changes) -> None:
        """Make the weight at a place hold exactly these changes; without any it is the original, bit for bit."""
        self.fused.pop(place, None)
        layer = self._find(place)
        self._forget_live(place, layer)
        if not changes:
            self._restore(place, layer)
            return
        leaves = _leaves_of(layer, changes)
        kept = self.originals.setdefault(place, {})
        for leaf in kept.keys() - set(leaves):  # an adapter that is gone had changed it
            self._restore_leaf(layer, leaf, kept)
        for leaf in leaves:
            self._write_leaf(place, leaf, _parameter(layer, leaf), changes)
        self.fused[place] = changes

    def give_up(self, places: Iterable[Place], left: Iterable[Place], given_up: dict[Place, GivenUp]) -> None:
        """Forget the originals of weights that stay as they are.

        Args:
            places: where they are.
            left: those of them where it is forgotten too that anything is fused.
            given_up: takes what is forgotten, for :meth:`take_back`.
        """
        for place in places:
            given_up[place] = self.originals.get(place), self.fused.get(place)
            self.originals.pop(place, None)
        for place in left:
            self.fused.pop(place, None)

    def take_back(self, given_up: Mapping[Place, GivenUp]) -> None:
        """Undo :meth:`give_up`."""
        for place, (originals, changes) in given_up.items():
            if originals is not None:
                self.originals[place] = originals
            if changes is not None:
                self.fused[place] = changes

    def _write_leaf(self, place: Place, leaf: str, parameter: nn.Parameter, changes: Changes) -> None:
        kept = self.originals[place]
        memory = None if leaf in kept else self.spare.take(parameter)
        if memory is not None:  # the original stays where it lies
            WRITERS[leaf](memory, parameter.data, changes.values())
            kept[leaf] = parameter.data
            parameter.data = memory
            return
        if leaf not in kept:
            kept[leaf] = parameter.data.to("cpu", copy=True)
        WRITERS[leaf](parameter.data, cast("Tensor", self.base(place, leaf, "")), changes.values())

    def _restore(self, place: Place, layer: nn.Module) -> None:
        kept = self.originals.get(place, {})
        for leaf in tuple(kept):
            self._restore_leaf(layer, leaf, kept)
        self.originals.pop(place, None)

    def _restore_leaf(self, layer: nn.Module, leaf: str, kept: Originals) -> None:
        parameter, original = _parameter(layer, leaf), kept[leaf]
        if isinstance(original, StoredOriginal):
            parameter.data.copy_(original.read(parameter.data))
        else:
            self.spare.give_back(parameter, original)
        del kept[leaf]  # it may be what the layer computes with now

    def _forget_live(self, place: Place, layer: nn.Module) -> None:
        """Forget originals that the layer computes with by now: an error came while they were put back."""
        kept = self.originals.get(place, {})
        for leaf, original in tuple(kept.items()):
            if isinstance(original, Tensor) and original.data_ptr() == _parameter(layer, leaf).data_ptr():
                del kept[leaf]


def check_alone(components: Mapping[str, nn.Module], places: Iterable[Place]) -> None:
    """Raise if another module has the weight or bias of one of these layers too, as tied embeddings have.

    Raises:
        ModelError: naming both.
    """
    mine: dict[int, tuple[Place, str]] = {}
    for place in dict.fromkeys(places):
        held = _addresses(layer_at(components[place[0]], place[1]))
        mine.update((address, (place, leaf)) for leaf, address in held if leaf in LEAVES)
    for name, component in components.items():
        for path, module in component.named_modules():
            for leaf, address in _addresses(module):
                place, own = mine.get(address, ((name, path), leaf))
                if (place, own) != ((name, path), leaf):
                    raise ModelError(
                        f"{'.'.join(place)}: its {own} is that of {name}.{path} too, so what is inside it would act in "
                        "both, and an adapter is for one of them. Keep it live with set()."
                    )


def check_backup(backup: str) -> Backup:
    """The backup itself.

    Raises:
        UnknownNameError: if there is no such backup.
    """
    if backup not in BACKUPS:
        raise UnknownNameError.choose("backup", backup, BACKUPS)
    return backup


def _addresses(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Names of a module's own parameters, and where in memory their numbers are."""
    for leaf, parameter in module._parameters.items():  # pyright: ignore[reportPrivateUsage]
        if parameter is not None and parameter.device.type != "meta" and parameter.numel():
            yield leaf, parameter.data_ptr()


def _leaves_of(layer: nn.Module, changes: Changes) -> tuple[str, ...]:
    """Which of a layer's tensors these changes change."""
    bias = cast("Tensor | None", getattr(layer, "bias", None))
    touched = {
        "weight": any(change.rank for change, _ in changes.values()),
        "bias": any(change.bias_delta(bias) is not None for change, _ in changes.values()),
    }
    return tuple(leaf for leaf in LEAVES if touched[leaf])


def _parameter(layer: nn.Module, leaf: str) -> nn.Parameter:
    return cast("nn.Parameter", getattr(layer, leaf))


def _check_plain(where: str, weight: Tensor) -> None:
    if weight.device.type == "meta":
        raise ModelError(
            f"{where}: its weight is away (an offload hook holds it), so nothing can be fused into it. "
            "Fuse before enabling offload, or keep the adapter live with set()."
        )
    if not weight.is_floating_point() or weight.element_size() < 2 or type(weight) is not Tensor:
        kind = str(weight.dtype) if type(weight) is Tensor else f"{type(weight).__name__}, {weight.dtype}"
        raise ModelError(
            f"{where}: its weight is quantised ({kind}); fusing would round the adapter away. "
            "Keep the adapter live with set(), which costs little and loses nothing."
        )
