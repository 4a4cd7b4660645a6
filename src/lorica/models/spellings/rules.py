"""A spelling that is data: one JSON file of foreign names and the paths that they stand for.

The file has up to four parts::

    {"marks": ["x_embedder", ...],                          modules that only this kind of network has
     "modules": {"img_in": "x_embedder",                    one module
                 "qkv": ["to_q", "to_k", "to_v"],           one weight over the other
                 "mod": {"halves_swapped": "norm.linear"}}, where it has two halves, the second first
     "blocks": {"double_blocks.*": {"path": "transformer_blocks.*", "modules": {...}}},
     "others": "same"}                                      modules not named above keep their own names
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from lorica.errors import FormatError
from lorica.models.spellings.part import Part, Shape, Table

Meaning = str | list[str] | dict[str, str]


class Rules:
    """The spelling in a file of this folder. Its name is what stands behind the kind of network: ``flux.bfl``."""

    def __init__(self, file: str) -> None:
        self.kind, _, self.name = file.partition(".")
        self._path = Path(__file__).parent / f"{file}.json"

    def fits(self, paths: Collection[str]) -> bool:
        """Tell whether the component has every module that marks this kind of network."""
        return all(mark in paths for mark in self._raw["marks"])

    def table(self, shapes: Mapping[str, Shape]) -> Table:
        """Map every foreign path to its parts."""
        table: Table = {}
        for foreign, meaning in self._names(shapes):
            parts = _parts(meaning, shapes)
            if parts and table.setdefault(foreign, parts) != parts:
                raise clash(foreign, table[foreign], parts)
        if self._raw.get("others") == "same":
            _keep_others(table, shapes)
        return table

    @cached_property
    def _raw(self) -> dict[str, Any]:
        return json.loads(self._path.read_text("utf-8"))

    def _names(self, paths: Iterable[str]) -> Iterator[tuple[str, Meaning]]:
        """Yield each foreign path with the paths it means, whether the component has them or not."""
        yield from self._raw["modules"].items()
        for foreign, block in self._raw.get("blocks", {}).items():
            for numbers in _numbers(block["path"], paths):
                outer, own = _fill(foreign, numbers), _fill(block["path"], numbers)
                for name, meaning in block["modules"].items():
                    yield f"{outer}.{name}", _inside(own, meaning)


def clash(foreign: str, first: Iterable[Part], second: Iterable[Part]) -> FormatError:
    """Return the error that says which modules share a foreign path."""
    names = (" + ".join(dict.fromkeys(part.path for part in parts)) for parts in (first, second))
    one, other = names
    return FormatError(
        f"the modules {one!r} and {other!r} share the name {foreign!r}, so a file that holds it cannot say which it "
        "means. Use format='diffusers'."
    )


def _parts(meaning: Meaning, shapes: Mapping[str, Shape]) -> tuple[Part, ...]:
    """Return the parts of one foreign module, or none where the component lacks one of them."""
    if isinstance(meaning, str):
        return (Part(meaning),) if meaning in shapes else ()
    if isinstance(meaning, list):
        return _stacked(meaning, shapes)
    return _swapped(meaning["halves_swapped"], shapes)


def _stacked(paths: Iterable[str], shapes: Mapping[str, Shape]) -> tuple[Part, ...]:
    if not all(path in shapes for path in paths):
        return ()
    ends = accumulate((shapes[path][0] for path in paths), initial=0)
    return tuple(Part(path, rows) for path, rows in zip(paths, pairwise(ends), strict=True))


def _swapped(path: str, shapes: Mapping[str, Shape]) -> tuple[Part, ...]:
    """Return the parts of a modulation: shift and scale in one model, scale and shift in the other."""
    if path not in shapes:
        return ()
    out, width = shapes[path][:2]
    if out != 2 * width:
        return (Part(path),)
    low, high = (0, width), (width, out)
    return Part(path, low, high), Part(path, high, low)


def _keep_others(table: Table, shapes: Mapping[str, Shape]) -> None:
    named = {part.path for parts in table.values() for part in parts}
    for path in shapes:
        if path not in named and table.setdefault(path, (Part(path),)) != (Part(path),):
            raise clash(path, table[path], (Part(path),))


def _numbers(pattern: str, paths: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the numbers that stand for the stars of a pattern, of each block that there is, in order."""
    block = re.compile(re.escape(pattern).replace(r"\*", r"(\d+)") + r"\.")
    return list(dict.fromkeys(found.groups() for found in map(block.match, paths) if found))


def _fill(pattern: str, numbers: Iterable[str]) -> str:
    pieces = pattern.split("*")
    return pieces[0] + "".join(number + piece for number, piece in zip(numbers, pieces[1:], strict=True))


def _inside(own: str, meaning: Meaning) -> Meaning:
    if isinstance(meaning, str):
        return f"{own}.{meaning}"
    if isinstance(meaning, list):
        return [f"{own}.{path}" for path in meaning]
    return {how: f"{own}.{path}" for how, path in meaning.items()}
