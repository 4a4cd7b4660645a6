"""The weights as they were before anything was fused into them: kept, found again in the checkpoint, or given up."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lorica.errors import FileError, ModelError, StateError
from lorica.models.clip import spellings
from lorica.runtime.exchange import write_back
from lorica.runtime.pages import empty_like

Place = tuple[str, str]
Backup = Literal["cpu", "reload", "none"]
BACKUPS = ("cpu", "reload", "none")
LEAVES = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in the checkpoint that a component was loaded from."""

    file: Path
    key: str

    def read(self, like: Tensor) -> Tensor:
        """Return it in the dtype and on the device of ``like``.

        Raises:
            FileError: if the file is no longer there, or no longer holds it.
        """
        try:
            with safe_open(str(self.file), framework="pt") as file:
                return cast("Tensor", file.get_tensor(self.key)).to(like.device, like.dtype)
        except (OSError, SafetensorError) as error:
            raise FileError(f"cannot read {self.key} again from {self.file}: {error}") from error


Kept = dict[str, "Tensor | Stored"]  # weight and perhaps bias


@dataclass
class Dropped:
    """Originals that were given up while somebody might want them back."""

    originals: dict[Place, Kept] = field(default_factory=dict[Place, Kept])


@dataclass(slots=True)
class Originals:
    """What is known of the weights before fusing, for every place that holds a fused adapter.

    Args:
        find: returns the layer at a place.
    """

    find: Callable[[Place], nn.Module]
    kept: dict[Place, Kept] = field(default_factory=dict[Place, Kept])
    given_up: set[Place] = field(default_factory=set[Place])
    dropped: Callable[[], Dropped | None] = lambda: None

    def get(self, place: Place, leaf: str = "weight") -> Tensor | None:
        """Return a weight (or bias) as it was before fusing; None if nothing is fused there."""
        found = self.kept.get(place, {}).get(leaf)
        return found.read(_leaf(self.find(place), leaf)) if isinstance(found, Stored) else found

    def has(self, place: Place, leaf: str) -> bool:
        """Tell whether the original of a weight or bias is known."""
        return leaf in self.kept.get(place, {})

    def keep(self, place: Place, leaf: str) -> Tensor:
        """Return the original of a weight or bias, copied to the CPU now if it was not kept before."""
        held = self.kept.setdefault(place, {})
        if leaf not in held:
            live = _leaf(self.find(place), leaf)
            held[leaf] = empty_like(live).copy_(live)
        return cast("Tensor", self.get(place, leaf))

    def leave(self, place: Place, leaf: str, room: Tensor) -> None:
        """Keep the original of a weight or bias where it lies, and let the layer compute with ``room`` instead."""
        parameter = cast("nn.Parameter", getattr(self.find(place), leaf))
        self.kept.setdefault(place, {})[leaf] = parameter.data
        parameter.data = room

    def expect(self, found: Mapping[Place, Kept]) -> None:
        """Take these originals from the checkpoint instead of copying them, where none is kept yet."""
        for place, stored in found.items():
            held = self.kept.setdefault(place, {})
            self.kept[place] = {**stored, **held}

    def check_readable(self, places: Iterable[Place]) -> None:
        """Raise unless the checkpoints still hold what would be read from them, before anything is written.

        Raises:
            FileError: if one does not.
        """
        stored = [one for place in places for one in self.kept.get(place, {}).values() if isinstance(one, Stored)]
        for path in {one.file for one in stored}:
            keys = _keys_of(path)
            gone = [one.key for one in stored if one.file == path and one.key not in keys]
            if gone:
                raise FileError(
                    f"cannot read {gone[0]} again from {path}, which no longer holds it, so it cannot be unfused. "
                    "Put the checkpoint back as it was."
                )

    def restore(self, place: Place) -> None:
        """Put the originals back, if anything was changed, and forget them."""
        layer, held = self.find(place), self.kept.get(place, {})
        for leaf, original in tuple(held.items()):
            parameter = cast("nn.Parameter", getattr(layer, leaf))
            if isinstance(original, Stored):
                parameter.data.copy_(original.read(parameter.data))
            else:
                write_back(parameter, original)
            del held[leaf]  # it may be what the layer computes with now
        self.kept.pop(place, None)

    def forget_live(self, place: Place) -> None:
        """Forget originals that the layer computes with by now: an error came while they were put back."""
        layer, held = self.find(place), self.kept.get(place, {})
        for leaf, original in tuple(held.items()):
            if isinstance(original, Tensor) and original.data_ptr() == _leaf(layer, leaf).data_ptr():
                del held[leaf]

    def give_up(self, place: Place) -> None:
        """Forget the originals of a place whose weights stay as they are."""
        if (dropped := self.dropped()) is not None:
            dropped.originals[place] = self.kept.get(place, {})
        self.kept.pop(place, None)
        self.given_up.add(place)

    def note_dropped(self) -> Dropped:
        """Return what takes up the originals that are given up from here on, as long as the caller holds it."""
        dropped = Dropped()
        self.dropped = weakref.ref(dropped)
        return dropped

    def check_kept(self, places: Mapping[Place, Any]) -> None:
        """Raise if one of these was fused without a backup.

        Raises:
            StateError: if so; it says what can be done.
        """
        lost = [".".join(place) for place in places if place in self.given_up]
        if lost:
            raise StateError(
                f"{len(lost)} weights, such as {lost[0]}, were fused with backup='none', so their originals are gone: "
                "nothing can be taken out of them or added. Load the base model again to go back; fuse with "
                "backup='cpu' or 'reload' to keep the way open."
            )


def _keys_of(path: Path) -> set[str]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return set(cast("list[str]", file.keys()))
    except (OSError, SafetensorError):
        return set()


def find_stored(component: nn.Module, places: Mapping[Place, tuple[str, ...]]) -> dict[Place, Kept]:
    """Return where a component's checkpoint holds the weights at these places, each compared with the live one.

    Args:
        component: a model that ``from_pretrained`` loaded from a folder.
        places: the layers, and which of their tensors are wanted.

    Raises:
        ModelError: if it came from no folder, or a weight is not there exactly as it is now.
    """
    found: dict[Place, Kept] = {}
    with ExitStack() as stack:
        homes: dict[str, list[tuple[Path, Any]]] = {}
        for path in _files_of(component):
            file: Any = stack.enter_context(safe_open(str(path), framework="pt"))
            for key in file.keys():  # noqa: SIM118  # not a mapping
                homes.setdefault(key, []).append((path, file))
        for (name, path), leaves in places.items():
            layer = component.get_submodule(path)
            found[name, path] = {leaf: _home(f"{path}.{leaf}", _leaf(layer, leaf), homes) for leaf in leaves}
    return found


def _home(key: str, live: Tensor, homes: Mapping[str, list[tuple[Path, Any]]]) -> Stored:
    """Return the stored tensor that is the live one; several components in one folder may have the same names."""
    known = [(path, file, spelling) for spelling in spellings(key) for path, file in homes.get(spelling, [])]
    for path, file, spelling in known:
        stored = cast("Tensor", file.get_tensor(spelling)).to(live.device, live.dtype)
        if stored.shape == live.shape and torch.equal(stored, live):
            return Stored(path, spelling)
    where = f"is not what {known[0][0]} holds (was the model changed after loading?)" if known else "is in no file"
    raise ModelError(f"{key} {where}, so it could not be read again from there. Fuse with backup='cpu'.")


def _files_of(component: nn.Module) -> list[Path]:
    """Return the weight files of the folder that a component was loaded from, or of that folder's own folders."""
    config: Any = getattr(component, "config", None)
    name = getattr(config, "_name_or_path", None) or getattr(component, "name_or_path", None)
    for pattern in ("*.safetensors", "*/*.safetensors"):
        found = sorted(Path(name).glob(pattern)) if name else []
        if found:
            return found
    raise ModelError(
        f"this {type(component).__name__} was not loaded from a folder of safetensors files"
        f"{f' (but from {name})' if name else ''}, so backup='reload' has nothing to read again. Fuse with "
        "backup='cpu'."
    )


def _leaf(layer: nn.Module, leaf: str) -> Tensor:
    return cast("nn.Parameter", getattr(layer, leaf)).data
