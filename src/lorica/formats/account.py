"""The account of a file: what became of each key, and how the file spelled what was read of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from heapq import nlargest
from itertools import takewhile
from math import prod
from operator import eq

from torch import Tensor

from lorica.adapters import Adapter, AdapterLayer
from lorica.adapters.report import Report, UnusedKey
from lorica.errors import FormatError
from lorica.formats.methods.layers import forms, untold_alpha
from lorica.formats.methods.leaves import TOLD
from lorica.formats.names import Location
from lorica.models import Target
from lorica.models.detect import Candidate
from lorica.models.folding import Shape

SHOWN = 4  # unused keys that a message lists
_COMPARED = 12  # names that are compared closely


@dataclass(slots=True)
class FileSpelling:
    """How one file spells its keys, kept with what was read, so that it is written back in the same spelling.

    One format has several spellings: Kohya files for Stable Diffusion XL exist with the original's block names and with
    those of diffusers, alphas are missing, or of any dtype. ``write(read(file))`` gives the keys of the file again.

    Args:
        locations: the name of each module in the file to where it stands.
        leaves: that name to the keys of its leaves.
        numbers: key of an alpha, or another number that is told, to the tensor that the file has there.
        shapes: key to the file's shape, where the model's is another (a 1 x 1 convolution for a Linear).
        embeddings: token and component to key.
        models: the models that the names are of, the first that in which they were looked up; none if none was asked.
    """

    locations: dict[str, Location] = field(default_factory=dict[str, Location])
    leaves: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    numbers: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    shapes: dict[str, Shape] = field(default_factory=dict[str, Shape])
    embeddings: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    models: Sequence[Target] = ()

    def names_in(self, component: str, paths: Mapping[str, object]) -> dict[str, Location]:
        """The names that the file has for modules of a component of which some path is asked for."""
        return {
            name: location
            for name, location in self.locations.items()
            if location.component == component and any(path in paths for path in location.paths())
        }

    def tensors_of(self, name: str, layer: AdapterLayer, *, told: bool) -> dict[str, Tensor] | None:
        """The tensors of a module under the file's own keys, or None if those are not for such a layer.

        Args:
            name: the module's name in the file.
            layer: its layer.
            told: whether the alpha is told elsewhere, if no key tells it.
        """
        keys = self.leaves.get(name)
        if not keys:
            return None
        wanted = keys.keys() - set(TOLD)
        leaves = next((form for form in forms(layer) if form.keys() == wanted), None)
        if leaves is None:
            return None
        tensors = {keys[meaning]: self._own(keys[meaning], tensor) for meaning, tensor in leaves.items()}
        told_by = "scale" if "scale" in keys else "alpha"  # the one that counts; the other is kept as it is
        numbers = {
            meaning: self._number(key, meaning, layer) if meaning in (told_by, "reshape") else self.numbers[key]
            for meaning, key in keys.items()
            if meaning in TOLD
        }
        if any(number is None for number in numbers.values()) or (
            told_by not in numbers and not told and layer.alpha != untold_alpha(layer)
        ):
            return None
        return {**tensors, **{keys[meaning]: number for meaning, number in numbers.items() if number is not None}}

    def _own(self, key: str, tensor: Tensor) -> Tensor:
        """A tensor in the shape that the file has; a flag that is as it was, just as it was."""
        if key in self.numbers and bool(self.numbers[key]) == bool(tensor):
            return self.numbers[key]
        return _shaped(tensor, self.shapes[key]) if key in self.shapes else tensor

    def _number(self, key: str, meaning: str, layer: AdapterLayer) -> Tensor | None:
        """The file's own number, if it still says the layer's alpha, or the shape of its weight."""
        number = self.numbers[key]
        if meaning == "reshape":
            return number if tuple(number.flatten().tolist()) == layer.weight_shape else None
        alpha = float(number.item()) * (layer.rank if meaning == "scale" else 1)
        return number if alpha == layer.alpha or (alpha == 0 and layer.alpha == layer.rank) else None


def spelling_of(adapter: Adapter, format_name: str) -> FileSpelling:
    """The spelling of the file of this format that an adapter was read from; an empty one if there is no such file."""
    report = adapter.report
    if report is None or report.format != format_name or not isinstance(report.spelling, FileSpelling):
        return FileSpelling()
    return report.spelling


def _shaped(tensor: Tensor, shape: Shape) -> Tensor:
    """A tensor in the shape that a file has there; after a change of rank, with as many dimensions."""
    if tensor.numel() == prod(shape):
        return tensor.reshape(shape)
    size, ones = tensor.shape[:2], [1] * (len(shape) - 2)
    return tensor.reshape(*size, *ones) if len(shape) > 1 and prod(size) == tensor.numel() else tensor


@dataclass(slots=True)
class Account:
    """What has become of the keys of one file so far."""

    format: str
    source: str
    used: list[str] = field(default_factory=list[str])
    unused: dict[str, str] = field(default_factory=dict[str, str])
    strangers: dict[str, str] = field(default_factory=dict[str, str])  # unused keys to the modules they name
    spelling: FileSpelling = field(default_factory=FileSpelling)
    candidates: Sequence[Candidate] = ()  # the families that the file may be for, if that was looked at

    def leave(self, keys: Iterable[str], reason: str) -> None:
        """Note that nothing came from these keys, and why."""
        for key in keys:
            self.unused[key] = reason

    def leave_stranger(self, keys: Iterable[str], module: str, reason: str) -> None:
        """Note that nothing came from these keys because there is no such module."""
        for key in keys:
            self.unused[key] = reason
            self.strangers[key] = module

    def report(self, base_model: str | None, evidence: tuple[str, ...]) -> Report:
        """The finished account, with the base model and what speaks for it."""
        used = dict.fromkeys(self.used)  # a tensor that several modules share is one key
        left = tuple(UnusedKey(key, reason) for key, reason in self.unused.items() if key not in used)
        return Report(self.format, self.source, base_model, tuple(used), left, evidence, self.spelling)

    def error(self, known: Sequence[str], looks: str) -> FormatError:
        """The error for the unused keys: the first of them, why, their nearest matches, and how to go on.

        Args:
            known: the modules that the file could have named.
            looks: a sentence on what the file looks like, or nothing.
        """
        sample = self._sample()
        shown = [f"{key}: {self.unused[key]}{self._nearest(key, known)}" for key in sample]
        if len(self.unused) > len(sample):
            shown.append(f"and {len(self.unused) - len(sample)} more")
        lines = "\n  ".join(shown)
        total = len(self.unused) + len(self.used)
        return FormatError(
            f"{self.source}: {len(self.unused)} of its {total} keys cannot be used ({self.format} format), so nothing "
            f"was read.\n  {lines}\n{looks}{' ' if looks else ''}"
            "With strict=False the rest of the file is read without them."
        )

    def _sample(self) -> list[str]:
        """The first keys that each tell something new: another module, or another reason."""
        told = {(reason, self.strangers.get(key)): key for key, reason in reversed(self.unused.items())}
        return list(reversed(told.values()))[:SHOWN]

    def _nearest(self, key: str, known: Sequence[str]) -> str:
        if key not in self.strangers:
            return ""
        near = nearest(self.strangers[key], known)
        return f" Nearest: {', '.join(near)}." if near else ""


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """Up to three of the known names that are most like a name.

    Comparing a long name closely takes long, so only those that share the most of their beginning and end are.
    """

    def shared(other: str) -> int:
        return _shared_start(name, other) + _shared_start(name[::-1], other[::-1])

    return get_close_matches(name, nlargest(_COMPARED, known, key=shared), n=3, cutoff=0.5)


def _shared_start(a: str, b: str) -> int:
    return sum(takewhile(bool, map(eq, a, b)))
