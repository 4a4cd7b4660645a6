"""Adapters inside the base weights, and out again bit for bit.

The first fuse of a weight keeps its original; every later fuse or unfuse computes the weight anew from it, in float32,
with one rounding: ``W' = round(W + sum of strength * delta(W))``. So nothing drifts, and order does not matter. Biases
likewise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from lorica.adapters import AdapterLayer
from lorica.errors import ModelError, UnknownNameError
from lorica.runtime.exchange import room_for
from lorica.runtime.fusing.originals import BACKUPS, LEAVES, Backup, Dropped, Kept, Originals, find_stored
from lorica.runtime.model.plan import Place, Plan

Change = tuple[AdapterLayer, float]  # what is fused into one weight, and how strongly
Changes = Mapping[str, Change]  # by adapter
NUMBERS_AT_ONCE = 1 << 21  # of a half-precision weight are widened to float32 at a time: they stay in cache

# A product of as many rows, or a multiple, is quickest, and the same bits with any number of threads.
ROWS_TOGETHER = 64


@dataclass(frozen=True, slots=True)
class KeptFused:
    """What was fused, to be restored.

    Args:
        changes: what each place held.
        given_up: the places whose originals were given up.
        dropped: the originals that were given up since.
    """

    changes: dict[Place, dict[str, Change]]
    given_up: set[Place]
    dropped: Dropped


@dataclass(slots=True)
class Fused:
    """What is fused into the weights of one model.

    Args:
        find: returns the layer at a place.
        components: the model's parts by name.
        changes: what each place holds, by the adapter's name.
    """

    find: Callable[[Place], nn.Module]
    components: Mapping[str, nn.Module]
    changes: dict[Place, dict[str, Change]] = field(default_factory=dict[Place, dict[str, Change]])
    originals: Originals = field(init=False)

    def __post_init__(self) -> None:
        self.originals = Originals(self.find)

    def put(self, wanted: Mapping[Place, Changes], backup: Backup = "cpu") -> None:
        """Make the named places hold exactly these changes; after an error, :meth:`restore` undoes what was done.

        Args:
            wanted: what the places that change are to hold.
            backup: where the originals of weights that were not fused into before are kept.

        Raises:
            ModelError: if a weight cannot be changed (it is quantised, or away with an offload hook), a bias is
                missing, or the originals could not be read again.
            StateError: if a weight was fused into without a backup.
            UnknownNameError: if there is no such backup.
        """
        self._check(wanted, backup)
        if backup == "reload":
            fresh = {place: changes for place, changes in wanted.items() if place not in self.changes}
            self.originals.expect(self._stored(fresh))
        for place, changes in wanted.items():
            self._write(place, changes)

    def keep(self) -> KeptFused:
        """Return what :meth:`restore` needs to undo all that is done from here on."""
        return KeptFused(dict(self.changes), set(self.originals.given_up), self.originals.note_dropped())

    def restore(self, kept: KeptFused) -> None:
        """Let every weight hold what it held when that was kept."""
        changes, originals = kept.changes, self.originals
        originals.kept, originals.given_up = {**kept.dropped.originals, **originals.kept}, kept.given_up
        for place in {*changes, *self.changes}:
            if changes.get(place) is not self.changes.get(place) and place not in kept.given_up:
                self._write(place, changes.get(place, {}))
        for place in originals.kept.keys() - changes.keys():  # found in the checkpoint, and never needed
            del originals.kept[place]
        self.changes = changes

    def settle(self, wanted: Mapping[Place, Changes], backup: Backup) -> None:
        """Give up the originals of what was put, if that was asked for."""
        if backup == "none":
            for place in wanted:
                if wanted[place]:
                    self.originals.give_up(place)

    def without(self, names: Iterable[str], *, lost: bool = True) -> dict[Place, dict[str, Change]]:
        """Return what every place would hold without these adapters, for the places that hold any of them.

        Args:
            names: adapters.
            lost: whether places whose originals were given up are among them.
        """
        gone = set(names)
        return {
            place: {name: change for name, change in changes.items() if name not in gone}
            for place, changes in self.changes.items()
            if gone & changes.keys() and (lost or place not in self.originals.given_up)
        }

    def with_more(
        self, strengths: Mapping[str, Mapping[Place, float]], plans: Mapping[str, Plan]
    ) -> dict[Place, dict[str, Change]]:
        """Return what each place that these adapters change would hold with them, at their strength in each layer."""
        wanted: dict[Place, dict[str, Change]] = {}
        for name, values in strengths.items():
            for place, strength in values.items():
                held = wanted.setdefault(place, dict(self.changes.get(place, {})))
                held[name] = (plans[name][place], strength)
        return wanted

    def let_be(self) -> None:
        """Forget what is fused, and leave it in the weights where nothing else is possible; the rest must be out."""
        self.changes = {place: held for place, held in self.changes.items() if place not in self.originals.given_up}
        self.originals.given_up.clear()

    def _check(self, wanted: Mapping[Place, Changes], backup: str) -> None:
        if backup not in BACKUPS:
            raise UnknownNameError.choose("backup", backup, BACKUPS)
        self.originals.check_kept(wanted)
        self.originals.check_readable(wanted)
        for place, changes in wanted.items():
            layer, where = self.find(place), ".".join(place)
            _check_plain(where, _leaf(layer, "weight"))
            if "bias" in _leaves_of(layer, changes) and getattr(layer, "bias", None) is None:
                raise ModelError(
                    f"{where}: the adapter changes its bias, but it has none, so there is nothing to fuse that into. "
                    "Keep the adapter live with set()."
                )

    def _stored(self, wanted: Mapping[Place, Changes]) -> dict[Place, Kept]:
        """Return where the checkpoint holds what would be changed."""
        found: dict[Place, Kept] = {}
        for name, component in self.components.items():
            places = {place: _leaves_of(self.find(place), held) for place, held in wanted.items() if place[0] == name}
            found.update(find_stored(component, places) if places else {})
        return found

    @torch.no_grad()
    def _write(self, place: Place, changes: Changes) -> None:
        if not changes:
            self.changes.pop(place, None)
            self.originals.restore(place)
            return
        self.changes[place] = dict(changes)  # first: an error in the midst of it must not go unnoticed
        self.originals.forget_live(place)
        layer = self.find(place)
        leaves = _leaves_of(layer, changes)
        for leaf in self.originals.kept.get(place, {}).keys() - set(leaves):  # an adapter that is gone had changed it
            _leaf(layer, leaf).copy_(cast("Tensor", self.originals.get(place, leaf)))
        for leaf in leaves:
            room = None if self.originals.has(place, leaf) else room_for(_parameter(layer, leaf))
            if room is None:
                self._write_in_place(place, leaf, changes)
            else:
                WRITERS[leaf](room, _leaf(layer, leaf), changes.values())
                self.originals.leave(place, leaf, room)

    def _write_in_place(self, place: Place, leaf: str, changes: Changes) -> None:
        live, known = _leaf(self.find(place), leaf), self.originals.has(place, leaf)
        original = self.originals.keep(place, leaf)
        WRITERS[leaf](live, original if known else live, changes.values())


def write_weight(weight: Tensor, original: Tensor, changes: Iterable[Change]) -> None:
    """Write ``W + sum of strength * delta(W)`` into ``weight``, every delta that of the original weight.

    Changes with thin factors are stacked along the rank, so that several cost one matrix product. ``original`` may be
    ``weight`` itself, as long as nothing is fused into it.
    """
    original = original.to(weight.device)
    whole: Tensor | None = None
    downs: list[Tensor] = []
    ups: list[Tensor] = []
    for layer, strength in changes:
        factors = layer.factors_on(original) if original.ndim > 1 else None
        if factors is None:
            whole = _wide(original) if whole is None else whole
            whole.add_(layer.delta(original).view(original.shape).to(whole.device), alpha=strength)
        else:
            downs.append(factors.down.to(weight.device, torch.float32).flatten(1))
            ups.append(factors.up.to(weight.device, torch.float32) * (strength * factors.scaling))
    if not downs:
        weight.copy_(original if whole is None else whole)
        return
    down, up = (downs[0], ups[0]) if len(downs) == 1 else (torch.cat(downs), torch.cat(ups, dim=1))
    _write_product(weight, original if whole is None else whole, up, down)


def write_bias(bias: Tensor, original: Tensor, changes: Iterable[Change]) -> None:
    """Write ``b + sum of strength * bias_delta(b)`` into ``bias``."""
    original = original.to(bias.device)
    total = _wide(original)
    for layer, strength in changes:
        change = layer.bias_delta(original)
        if change is not None:
            total.add_(change.to(total.device), alpha=strength)
    bias.copy_(total)


WRITERS = {"weight": write_weight, "bias": write_bias}


def _write_product(weight: Tensor, base: Tensor, up: Tensor, down: Tensor) -> None:
    """Write ``round(base + up . down)``, summed in float32, without a copy of the whole weight in float32."""
    if not weight.is_contiguous() or not base.is_contiguous():  # channels last: its rows are not matrices in memory
        weight.copy_(_wide(base).flatten(1).addmm_(up, down).view(weight.shape))
        return
    rows, sums = weight.flatten(1), base.flatten(1)
    if base is weight and weight.dtype == torch.float32:
        rows.addmm_(up, down)
    elif weight.dtype == base.dtype == torch.float32:
        torch.addmm(sums, up, down, out=rows)
    else:
        step = rows_at_once(*rows.shape) if weight.device.type == "cpu" else len(rows)
        buffer = torch.empty_like(rows[:step], dtype=torch.float32)
        for part, was, factors in zip(rows.split(step), sums.split(step), up.split(step), strict=True):
            part.copy_(buffer[: len(part)].copy_(was).addmm_(factors, down))


def rows_at_once(rows: int, columns: int) -> int:
    """Return how many rows of a matrix are widened at a time: parts that fit in cache, and are about equally large."""
    parts = max(math.ceil(rows * columns / NUMBERS_AT_ONCE), 1)
    return math.ceil(rows / parts / ROWS_TOGETHER) * ROWS_TOGETHER


def _wide(tensor: Tensor) -> Tensor:
    """Return a copy in float32, its rows one after the other in memory."""
    return tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _leaves_of(layer: nn.Module, changes: Changes) -> tuple[str, ...]:
    """Return which of a layer's tensors these changes change."""
    bias = cast("Tensor | None", getattr(layer, "bias", None))
    touched = {
        "weight": any(change.rank for change, _ in changes.values()),
        "bias": any(change.bias_delta(bias) is not None for change, _ in changes.values()),
    }
    return tuple(leaf for leaf in LEAVES if touched[leaf])


def _parameter(layer: nn.Module, leaf: str) -> nn.Parameter:
    return cast("nn.Parameter", getattr(layer, leaf))


def _leaf(layer: nn.Module, leaf: str) -> Tensor:
    return _parameter(layer, leaf).data


def _check_plain(where: str, weight: Tensor) -> None:
    if weight.device.type == "meta":
        raise ModelError(
            f"{where}: its weight is away (an offload hook holds it), so nothing can be fused into it. "
            "Fuse before enabling offload, or keep the adapter live with set()."
        )
    if not weight.is_floating_point() or weight.element_size() < 2 or type(weight) is not Tensor:
        raise ModelError(
            f"{where}: its weight is quantised ({_kind_of(weight)}); fusing would round the adapter away. "
            "Keep the adapter live with set(), which costs little and loses nothing."
        )


def _kind_of(weight: Tensor) -> str:
    return str(weight.dtype) if type(weight) is Tensor else f"{type(weight).__name__}, {weight.dtype}"
