"""What a foreign name stands for, and what a way to spell a model's names must offer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

Shape = tuple[int, ...]
Rows = tuple[int, int]  # the first row and the one behind the last


@dataclass(frozen=True, slots=True)
class Part:
    """A module of the model that a foreign module, or some rows of its weight, stands for.

    ``own[own_rows] = foreign[rows]``, where None means all rows.

    Args:
        path: the module's path in its component.
        rows: rows of the foreign weight; None where it is this module and nothing else.
        own_rows: rows of the module's own weight that those are; None where they are all of it.
    """

    path: str
    rows: Rows | None = None
    own_rows: Rows | None = None


Table = dict[str, tuple[Part, ...]]  # foreign path to what it stands for, in the order of the foreign weight's rows


class Spelling(Protocol):
    """The names that other programs give to the modules of one kind of network."""

    @property
    def name(self) -> str:
        """What the spelling is called: ``ldm``, ``bfl``, ``native``, ``comfy``."""
        ...

    def fits(self, paths: Collection[str]) -> bool:
        """Tell whether a component with these module paths is of the kind that this spelling names."""
        ...

    def table(self, shapes: Mapping[str, Shape]) -> Table:
        """Map every foreign path to its parts, made from the paths and weight shapes of one component.

        The component may be a smaller or larger one of the same kind: a live model, with other numbers of blocks.

        Raises:
            FormatError: if two modules have one foreign path, naming both.
        """
        ...
