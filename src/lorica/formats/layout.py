"""How the keys of a file fall into modules, and what kinds of module those are.

That depends on names, shapes and dtypes alone, which the files of one trainer for one base model share. So the layouts
of the last few files are kept, and the next file that is laid out as one of them is understood without looking at its
names again. A layout holds no tensor and no number of a file.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from lorica.formats.embeddings import START
from lorica.formats.kinds import Forms, Kinds
from lorica.formats.methods.layers import Leaves, group
from lorica.formats.methods.leaves import LEAVES, unknown
from lorica.formats.places import Shape
from lorica.formats.sizes import size_of
from lorica.formats.storage.files import Stored
from lorica.models.detect import Candidate

KEPT = 8  # layouts; that of a thousand modules takes a megabyte
FLAT_LEAVES = {**LEAVES, "weight": "ia3.scale"}  # behind a dotted name, ``weight`` would be the end of many a leaf
_EMBEDDINGS = START.rstrip(".")
Split = Iterable[tuple[str, str, str]]  # key, module's name, meaning


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The modules of a file. It is shared by all files that are laid out alike, and never changed.

    Args:
        modules: the keys of each module by its name.
        kinds: the kind of each.
        sizes: outputs and inputs of the modules of each kind, as far as they are told.
        detected: the families that it may be for, by the naming of the format that asked; added when it asks.
    """

    modules: Mapping[str, Leaves]
    kinds: Kinds
    sizes: Sequence[Shape | None]
    detected: dict[Any, Sequence[Candidate]] = field(default_factory=dict[Any, "Sequence[Candidate]"])

    @classmethod
    def of(cls, stored: Stored, split: Split, forms: Forms | None = None) -> Layout:
        """Return the layout of a file whose keys were split.

        Raises:
            FormatError: if two keys are the same tensor of the same module in two spellings.
        """
        modules = group(split, stored.source)
        kinds = Kinds(stored, modules, forms)
        return cls(modules, kinds, [size_of(stored.tensors, leaves) for leaves in kinds.samples])


class Layouts:
    """The layouts of the last few files with flat names; several threads may ask at once."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._known: OrderedDict[Any, Layout] = OrderedDict()
        self._lock = Lock()

    def of(self, stored: Stored) -> Layout:
        """Return the layout of a file: a known one if its keys, shapes and dtypes are the same in the same order.

        Raises:
            FormatError: if two keys are the same tensor of the same module in two spellings.
        """
        forms = Forms.of(stored.tensors)
        key = tuple(stored.tensors), forms.shapes, forms.dtypes
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        layout = Layout.of(stored, split_flat(stored.tensors), forms)
        if layout.kinds.are_told:
            return layout  # another file of the same shapes may tell otherwise
        with self._lock:
            self._known[key] = layout
            while len(self._known) > self._kept:
                self._known.popitem(last=False)
        return layout

    def forget(self) -> None:
        """Forget all: the next file is looked at as if it were the first."""
        with self._lock:
            self._known.clear()


LAYOUTS = Layouts(KEPT)


def split_flat(keys: Iterable[str]) -> Split:
    """Yield each key with the module's name, which ends at the first dot, and its meaning."""
    for key in keys:
        name, _, leaf = key.partition(".")
        if name != _EMBEDDINGS:
            yield key, name, FLAT_LEAVES.get(leaf) or unknown(leaf)
