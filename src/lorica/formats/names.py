"""The names that files use for a model's modules, made from its own module paths and looked up: never parsed.

Kohya's scripts write every dot of a path as an underscore, which no rule can undo: ``to_out_0`` may be ``to.out.0`` or
``to_out.0``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from lorica.errors import FormatError
from lorica.models.clip import spellings
from lorica.models.folding import Shape
from lorica.models.spellings import Part, foreign_names
from lorica.models.spellings.part import RowRange
from lorica.models.target import Target

Prefixes = Mapping[str, tuple[str, ...]]
BARE_MODULE = "model"  # the component of a module that is no known part of a pipeline: it takes the names of any


class Location(NamedTuple):
    """Where a module of a file stands in the model: one module, or rows of several (a fused projection)."""

    component: str
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, component: str, path: str) -> Location:
        """The location of one module."""
        return cls(component, (Part(path),))

    @property
    def is_whole(self) -> bool:
        """Whether it is one module and nothing else."""
        return len(self.parts) == 1 and self.parts[0].rows is None

    def __str__(self) -> str:
        return " and ".join(f"{self.component}.{path}" for path in self.paths())

    def paths(self) -> list[str]:
        """The paths of its modules, each once."""
        return list(dict.fromkeys(part.path for part in self.parts))

    def rows(self) -> dict[str, tuple[RowRange, ...]]:
        """For each path the rows of the file's weight that are its own, in the order of its own weight."""
        chosen: dict[str, list[tuple[RowRange, RowRange]]] = {}
        for part in self.parts:
            rows = part.rows or (0, 0)
            chosen.setdefault(part.path, []).append((part.own_rows or rows, rows))
        return {path: tuple(rows for _, rows in sorted(pieces)) for path, pieces in chosen.items()}

    def shape_in(self, shapes: Mapping[str, Shape]) -> Shape:
        """The shape of the file's weight, from those of the model's own."""
        first = shapes[self.parts[0].path]
        return first if self.is_whole else (max(part.rows[1] for part in self.parts if part.rows), *first[1:])


def flat_name(path: str, prefix: str) -> str:
    """The flat name of a module: ``lora_unet_mid_block_resnets_0_conv1``."""
    return f"{prefix}_{path.replace('.', '_')}"


def flat_names(paths: Iterable[str], prefix: str) -> dict[str, str]:
    """Path by flat name.

    Raises:
        FormatError: if two paths share a flat name, naming both.
    """
    table: dict[str, str] = {}
    for path in paths:
        flat = flat_name(path, prefix)
        if table.setdefault(flat, path) != path:
            raise _shared(flat, table[flat], path)
    return table


def name_table(target: Target, prefixes: Prefixes, joint: str, *, numbered: bool = False) -> Mapping[str, Location]:
    """Location by every name that files use for the modules of a model.

    Args:
        target: the model.
        prefixes: component to what its names begin with; a component that is not in it has no names.
        joint: what stands for a dot, also behind the prefix.
        numbered: whether the parts of a fused weight have names of their own as well.

    Raises:
        FormatError: if two modules share a name, naming both.
    """
    modules = tuple((component, tuple(shapes.items())) for component, shapes in target.components.items())
    return _name_table(modules, tuple(prefixes.items()), joint, numbered)


def number_parts(names: Mapping[str, Location]) -> dict[str, Location]:
    """The names with those of several modules replaced: ``qkv`` by ``qkv.0``, ``qkv.1`` and ``qkv.2``."""
    table: dict[str, Location] = {}
    for name, location in names.items():
        paths = location.paths()
        if len(paths) == 1:
            table[name] = location
        else:
            table.update({f"{name}.{n}": Location.of(location.component, path) for n, path in enumerate(paths)})
    return table


@lru_cache(maxsize=128)  # a live model's target is made anew for every load, with the same paths
def _name_table(
    modules: tuple[tuple[str, tuple[tuple[str, Shape], ...]], ...],
    prefixes: tuple[tuple[str, tuple[str, ...]], ...],
    joint: str,
    numbered: bool,
) -> Mapping[str, Location]:
    starts = dict(prefixes)
    starts[BARE_MODULE] = tuple(start for every in starts.values() for start in every)
    table: dict[str, Location] = {}
    for component, shapes in modules:
        named = list(_locations(component, dict(shapes)))
        named += number_parts(dict(named)).items() if numbered else ()
        locations = [(name.replace(".", joint), location) for name, location in named]
        for start in starts.get(component, ()):
            _add(table, start + joint if start else "", locations)
    return table


def _add(table: dict[str, Location], start: str, locations: Iterable[tuple[str, Location]]) -> None:
    for name, location in locations:
        other = table.setdefault(start + name, location)
        if other is not location and other.component == location.component and other != location:
            raise _shared(start + name, str(other), str(location))


def _locations(component: str, shapes: Mapping[str, Shape]) -> Iterator[tuple[str, Location]]:
    """Every name of every module of a component, with dots."""
    for path in shapes:
        location = Location.of(component, path)
        for spelling in spellings(path):
            yield spelling, location
    for name, parts in foreign_names(shapes).items():
        yield name, Location(component, parts)


def _shared(name: str, one: str, other: str) -> FormatError:
    return FormatError(
        f"the modules {one!r} and {other!r} share the flat name {name!r}, so a file with flat (Kohya) names cannot "
        "tell them apart. Use format='diffusers'."
    )
