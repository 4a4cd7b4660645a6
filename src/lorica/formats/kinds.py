"""The kinds of module in a file: of one kind are those whose leaves have the same meanings, shapes and dtypes.

Of an IA3 a number decides too: whether its factors are of inputs or of outputs.

A file has the same few kinds in block after block, so what was found out of one module holds for many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import Tensor

from lorica.formats.methods.layers import Leaves
from lorica.formats.storage.files import Stored
from lorica.formats.storage.unread import Unread

_SWITCH = "ia3.on_input"


@dataclass(frozen=True, slots=True)
class Forms:
    """The shapes and dtypes of a file's tensors, in its order; a dtype that all of them have stands once."""

    shapes: tuple[Any, ...]
    dtypes: tuple[Any, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Forms:
        """Return those of a file, whose tensors are all unread, or none."""
        unread = isinstance(next(iter(tensors.values()), None), Unread)
        dtypes = tuple(map(attrgetter("stored_dtype" if unread else "dtype"), tensors.values()))
        return cls(tuple(map(attrgetter("shape"), tensors.values())), dtypes[:1] if len(set(dtypes)) == 1 else dtypes)

    def each(self) -> tuple[Any, ...]:
        """Return for each tensor something that is the same for those of one shape and dtype."""
        return self.shapes if len(self.dtypes) == 1 else tuple(zip(self.shapes, self.dtypes, strict=True))


class Kinds:
    """The kind of each module of a file, as a number.

    Args:
        stored: the content of the file.
        modules: its modules by name.
        forms: the shapes and dtypes of its tensors, if they were looked at.
    """

    def __init__(self, stored: Stored, modules: Mapping[str, Leaves], forms: Forms | None = None) -> None:
        forms = forms or Forms.of(stored.tensors)
        form = dict(zip(stored.tensors, forms.each(), strict=True)).__getitem__
        numbers: dict[tuple[Any, ...], int] = {}
        self.of: dict[str, int] = {
            name: numbers.setdefault((*leaves, *map(form, leaves.values())), len(numbers))
            for name, leaves in modules.items()
        }
        samples = {number: name for name, number in reversed(self.of.items())}
        told = {number for number, name in samples.items() if _SWITCH in modules[name]}
        self.are_told = bool(told)  # by numbers of the file, and not by its shapes alone
        for name, number in self.of.items() if told else ():
            if number in told and _is_on(stored.tensors[modules[name][_SWITCH]]):
                self.of[name] = numbers.setdefault((number, True), len(numbers))
        samples |= {number: name for name, number in reversed(self.of.items())} if told else {}
        self.samples: list[Leaves] = [modules[samples[number]] for number in range(len(numbers))]  # one of each kind


def _is_on(switch: Tensor) -> bool:
    return switch.numel() == 1 and bool(switch.item())
