"""Meaning of a foreign module name, and the interface of a spelling."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from lorica.models.folding import Shape

RowRange = tuple[int, int]  # the first row and the one after the last


@dataclass(frozen=True, slots=True)
class Part:
    """A module of the model that a foreign module, or some rows of its weight, stands for.

    ``own[own_rows] = foreign[rows]``, where None means all rows.

    Args:
        path: the module's path in its component.
        rows: rows of the foreign weight; None where it is this module and nothing else.
        own_rows: the same rows in the module's own weight; None where they are all of it.
    """

    path: str
    rows: RowRange | None = None
    own_rows: RowRange | None = None


Table = dict[str, tuple[Part, ...]]  # foreign path to its parts, in the order of the foreign weight's rows


class Spelling(Protocol):
    """The names that other programs give to the modules of one kind of network."""

    @property
    def name(self) -> str:
        """Name of the spelling: ``ldm``, ``bfl``, ``native``, ``comfy``."""
        ...

    def fits(self, paths: Collection[str]) -> bool:
        """Whether a component with these module paths is of the kind that this spelling names."""
        ...

    def table(self, shapes: Mapping[str, Shape]) -> Table:
        """Every foreign path with its parts, made from the paths and weight shapes of one component.

        The component may be a smaller or larger one of the same kind: a live model, with other numbers of blocks.

        Raises:
            FormatError: if two modules have one foreign path, naming both.
        """
        ...
