"""The kinds of module in a file: of one kind are those whose leaves have the same meanings, shapes and dtypes.

A file has the same few kinds in block after block, so what was found out of one module holds for many.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from lorica.formats.files import Stored
from lorica.formats.layers import Leaves
from lorica.formats.unread import Unread


class Kinds:
    """The kind of each module of a file, as a number.

    Args:
        stored: the content of the file.
        modules: its modules by name.
    """

    def __init__(self, stored: Stored, modules: Mapping[str, Leaves]) -> None:
        tensor = stored.tensors.__getitem__
        first = next(iter(stored.tensors.values()), None)  # all are unread, or none
        form: Any = attrgetter("shape", "stored_dtype" if isinstance(first, Unread) else "dtype")
        numbers: dict[tuple[Any, ...], int] = {}
        self.of: dict[str, int] = {
            name: numbers.setdefault((*leaves, *map(form, map(tensor, leaves.values()))), len(numbers))
            for name, leaves in modules.items()
        }
        samples = {number: name for name, number in reversed(self.of.items())}
        self.samples: list[Leaves] = [modules[samples[number]] for number in range(len(numbers))]  # one of each kind
