"""The names that files use for a model's modules, made from its own module paths and looked up: never parsed.

Kohya's scripts write every dot of a path as an underscore, which no rule can undo: ``to_out_0`` may be ``to.out.0`` or
``to_out.0``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from lorica.errors import FormatError
from lorica.formats.places import Place, Shape, whole
from lorica.models.clip import spellings
from lorica.models.spellings import Part, foreign_names
from lorica.models.target import Target

Prefixes = Mapping[str, tuple[str, ...]]
BARE_MODULE = "model"  # the component of a module that is no known part of a pipeline: it takes the names of any


def flat_name(path: str, prefix: str) -> str:
    """Return the flat name of a module: ``lora_unet_mid_block_resnets_0_conv1``."""
    return f"{prefix}_{path.replace('.', '_')}"


def flat_names(paths: Iterable[str], prefix: str) -> dict[str, str]:
    """Map each flat name to the path that it stands for.

    Raises:
        FormatError: if two paths share a flat name, naming both.
    """
    table: dict[str, str] = {}
    for path in paths:
        flat = flat_name(path, prefix)
        if table.setdefault(flat, path) != path:
            raise _shared(flat, table[flat], path)
    return table


def name_table(target: Target, prefixes: Prefixes, joint: str, *, numbered: bool = False) -> Mapping[str, Place]:
    """Map every name that files use for the modules of a model to where it stands.

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


def number_parts(names: Mapping[str, Place]) -> dict[str, Place]:
    """Return the names with those of several modules replaced: ``qkv`` by ``qkv.0``, ``qkv.1`` and ``qkv.2``."""
    table: dict[str, Place] = {}
    for name, place in names.items():
        paths = place.paths()
        if len(paths) == 1:
            table[name] = place
        else:
            table.update({f"{name}.{number}": whole(place.component, path) for number, path in enumerate(paths)})
    return table


Modules = tuple[tuple[str, tuple[tuple[str, Shape], ...]], ...]


@lru_cache(maxsize=128)  # a live model's target is made anew for every load, with the same paths
def _name_table(
    modules: Modules, prefixes: tuple[tuple[str, tuple[str, ...]], ...], joint: str, numbered: bool
) -> Mapping[str, Place]:
    starts = dict(prefixes)
    starts[BARE_MODULE] = tuple(start for every in starts.values() for start in every)
    table: dict[str, Place] = {}
    for component, shapes in modules:
        named = list(_places(component, dict(shapes)))
        named += number_parts(dict(named)).items() if numbered else ()
        places = [(name.replace(".", joint), place) for name, place in named]
        for start in starts.get(component, ()):
            _add(table, start + joint if start else "", places)
    return table


def _add(table: dict[str, Place], start: str, places: Iterable[tuple[str, Place]]) -> None:
    for name, place in places:
        other = table.setdefault(start + name, place)
        if other is not place and other.component == place.component and other != place:
            raise _shared(start + name, str(other), str(place))


def _places(component: str, shapes: Mapping[str, Shape]) -> Iterator[tuple[str, Place]]:
    """Yield every name of every module of a component, with dots."""
    for path in shapes:
        place = whole(component, path)
        for spelling in spellings(path):
            yield spelling, place
    for name, parts in foreign_names(shapes).items():
        yield name, Place(component, parts)


def _shared(name: str, one: str, other: str) -> FormatError:
    return FormatError(
        f"the modules {one!r} and {other!r} share the flat name {name!r}, so a file with flat (Kohya) names cannot "
        "tell them apart. Use format='diffusers'."
    )


__all__ = ["BARE_MODULE", "Part", "Place", "flat_name", "flat_names", "name_table"]
