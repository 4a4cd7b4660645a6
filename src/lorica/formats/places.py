"""Where a module of a file stands in the model: one module, or rows of several (a fused projection)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lorica.models.spellings import Part

Rows = tuple[int, int]
Shape = tuple[int, ...]


class Place(NamedTuple):
    """The component and the parts of it that one module of a file changes."""

    component: str
    parts: tuple[Part, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it is one module and nothing else."""
        return len(self.parts) == 1 and self.parts[0].rows is None

    def __str__(self) -> str:
        return " and ".join(f"{self.component}.{path}" for path in self.paths())

    def paths(self) -> list[str]:
        """Return the paths of its modules, each once."""
        return list(dict.fromkeys(part.path for part in self.parts))

    def rows(self) -> dict[str, tuple[Rows, ...]]:
        """Return for each path the rows of the file's weight that are its own, in the order of its own weight."""
        chosen: dict[str, list[tuple[Rows, Rows]]] = {}
        for part in self.parts:
            rows = part.rows or (0, 0)
            chosen.setdefault(part.path, []).append((part.own_rows or rows, rows))
        return {path: tuple(rows for _, rows in sorted(pieces)) for path, pieces in chosen.items()}

    def shape_in(self, shapes: Mapping[str, Shape]) -> Shape:
        """Return the shape of the file's weight, from those of the model's own."""
        first = shapes[self.parts[0].path]
        return first if self.is_whole else (max(part.rows[1] for part in self.parts if part.rows), *first[1:])


def whole(component: str, path: str) -> Place:
    """Return the place of one module."""
    return Place(component, (Part(path),))
