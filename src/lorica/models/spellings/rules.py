"""A spelling that is data: one JSON file of foreign names and the paths that they stand for.

The file has up to four parts::

    {"marks": ["x_embedder", ...],                           modules that only this kind of network has
     "modules": {"img_in": "x_embedder", ...},               foreign path to meaning
     "blocks": {"double_blocks.*": {"path": "transformer_blocks.*", "modules": {"img_attn.proj": "attn.to_out.0"}}},
     "others": "same"}                                       modules not named above keep their own names

A meaning is one path, or a list of paths whose weights are stacked, or one of the ``HOW``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

from lorica.errors import FormatError
from lorica.models.folding import Shape
from lorica.models.spellings.part import Part, Table

FOLDER = Path(__file__).parent

Meaning = str | list[str] | dict[str, Any]


class Rules:
    """The spelling in a file of this folder, called after the kind of network and the spelling: ``flux.bfl``."""

    def __init__(self, file: str) -> None:
        self.kind, _, self.name = file.partition(".")
        self._path = FOLDER / f"{file}.json"

    def fits(self, paths: Collection[str]) -> bool:
        """Whether the component has every module that marks this kind of network."""
        return all(mark in paths for mark in self._raw["marks"])

    def table(self, shapes: Mapping[str, Shape]) -> Table:
        """Every foreign path with its parts."""
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
        """Every foreign path with its meaning, whether the component has those paths or not."""
        yield from self._raw["modules"].items()
        for foreign, block in self._raw.get("blocks", {}).items():
            for numbers in _numbers(block["path"], paths):
                outer, own = _fill(foreign, numbers), _fill(block["path"], numbers)
                for name, meaning in block["modules"].items():
                    yield f"{outer}.{name}" if name else outer, _inside(own, meaning)


def clash(foreign: str, first: Iterable[Part], second: Iterable[Part]) -> FormatError:
    """Error for two modules that share a foreign path."""
    names = (" + ".join(dict.fromkeys(part.path for part in parts)) for parts in (first, second))
    one, other = names
    return FormatError(
        f"the modules {one!r} and {other!r} share the name {foreign!r}, so a file that holds it cannot say which it "
        "means. Use format='diffusers'."
    )


def _parts(meaning: Meaning, shapes: Mapping[str, Shape]) -> tuple[Part, ...]:
    """Parts of one foreign module, or none where the component lacks one of them."""
    if isinstance(meaning, dict):
        ((how, paths),) = meaning.items()
        return HOW[how](paths, shapes)
    paths = [meaning] if isinstance(meaning, str) else meaning
    if not all(path in shapes for path in paths):
        return ()
    return (Part(paths[0]),) if len(paths) == 1 else _stacked(paths, shapes)


def _stacked(paths: Sequence[str], shapes: Mapping[str, Shape]) -> tuple[Part, ...]:
    ends = accumulate((shapes[path][0] for path in paths), initial=0)
    return tuple(Part(path, rows) for path, rows in zip(paths, pairwise(ends), strict=True))


def _halves_swapped(path: str, shapes: Mapping[str, Shape]) -> tuple[Part, ...]:
    """Parts of a modulation that is shift and scale on one side, scale and shift on the other.

    A weight that is not two squares has more than those two, and has the same order on both sides.
    """
    if path not in shapes:
        return ()
    out, width = shapes[path][:2]
    if out != 2 * width:
        return (Part(path),)
    low, high = (0, width), (width, out)
    return Part(path, low, high), Part(path, high, low)


def _halves_interleaved(paths: Sequence[str], shapes: Mapping[str, Shape]) -> tuple[Part, ...]:
    """The first halves of several modules, stacked, and then their second halves."""
    if not all(path in shapes for path in paths):
        return ()
    halves = [
        (path, (half * rows // 2, (half + 1) * rows // 2))
        for half in (0, 1)
        for path in paths
        for rows in (shapes[path][0],)
    ]
    ends = accumulate((last - first for _, (first, last) in halves), initial=0)
    return tuple(Part(path, rows, own) for (path, own), rows in zip(halves, pairwise(ends), strict=True))


def _first_of(paths: Sequence[str], shapes: Mapping[str, Shape]) -> tuple[Part, ...]:
    """The one of several paths that the component has: versions of a class differ."""
    return next(((Part(path),) for path in paths if path in shapes), ())


HOW: dict[str, Callable[[Any, Mapping[str, Shape]], tuple[Part, ...]]] = {
    "halves_swapped": _halves_swapped,
    "halves_interleaved": _halves_interleaved,
    "first_of": _first_of,
}


def _keep_others(table: Table, shapes: Mapping[str, Shape]) -> None:
    named = {part.path for parts in table.values() for part in parts}
    for path in shapes:
        if path not in named and table.setdefault(path, (Part(path),)) != (Part(path),):
            raise clash(path, table[path], (Part(path),))


def _numbers(pattern: str, paths: Iterable[str]) -> list[tuple[str, ...]]:
    """Numbers in the place of a pattern's stars, of each block of the component, in order."""
    block = re.compile(re.escape(pattern).replace(r"\*", r"(\d+)") + r"\.")
    return list(dict.fromkeys(found.groups() for found in map(block.match, paths) if found))


def _fill(pattern: str, numbers: Iterable[str]) -> str:
    pieces = pattern.split("*")
    return pieces[0] + "".join(number + piece for number, piece in zip(numbers, pieces[1:], strict=True))


def _inside(own: str, meaning: Any) -> Any:
    """Meaning of a name in a block: its paths are relative to the block's."""
    if isinstance(meaning, str):
        return f"{own}.{meaning}"
    if isinstance(meaning, dict):
        return {how: _inside(own, paths) for how, paths in cast("dict[str, Any]", meaning).items()}
    return [_inside(own, path) for path in meaning]
