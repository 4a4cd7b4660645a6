"""Which families have modules of a name and size: one small table of all of them, made by the script of the tables.

A name stands here with underscores for dots, since that is how the flat formats write it, and with a star for each
number between them: ``double_blocks_*_img_attn_qkv``. Foreign names stand beside the model's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice, repeat
from pathlib import Path
from typing import Any

from lorica.models.clip import WRAPPER
from lorica.models.folding import Shape
from lorica.models.spellings import foreign_names
from lorica.models.target import Target

FILE = Path(__file__).parent / "index.json"
Size = tuple[int, ...]  # out and in, without the size of a kernel; one number where a weight has no more
Numbers = tuple[int, ...]
Reaches = Mapping[Size, Sequence[Numbers]]  # size of modules to the highest numbers in their paths, network by network
TEXT = "text_encoder"  # what the components begin with that read the prompt
_NUMBER = re.compile(r"_(\d{1,9})(?=[_\n])")
_WRAPPER = WRAPPER.replace(".", "_")
_START = "\n_"  # of every path, while there are many in one text


@dataclass(frozen=True, slots=True)
class Holding:
    """That a network has modules of one name and size.

    Args:
        family: its family.
        component: which component of the family it is.
        size: the size of their weights.
        highest: the highest numbers in their paths.
    """

    family: str
    component: str
    size: Size
    highest: Numbers


@dataclass(frozen=True)
class Index:
    """What every network of every family holds.

    Args:
        networks: family to component to the number of its modules.
        entries: starred name to what the file says of it.
    """

    networks: Mapping[str, Mapping[str, int]]
    entries: Mapping[str, Mapping[str, Mapping[str, str]]]

    @cached_property
    def places(self) -> list[tuple[str, str]]:
        """Family and component of each network, by its number in the entries."""
        return [(family, component) for family, counts in self.networks.items() for component in counts]

    def reaches(self, name: str, *, text: bool | None = None) -> Mapping[str, Reaches]:
        """Return how far each family's modules of a starred name go, by their size; made once for each name.

        Args:
            name: the starred name.
            text: only in text encoders, or only in other networks; None is in all.
        """
        if (name, text) not in self._made:
            found: dict[str, dict[Size, list[Numbers]]] = {}
            for holding in self.holdings(name):
                if text is None or text == holding.component.startswith(TEXT):
                    found.setdefault(holding.family, {}).setdefault(holding.size, []).append(holding.highest)
            self._made[name, text] = found
        return self._made[name, text]

    @cached_property
    def _made(self) -> dict[tuple[str, bool | None], Mapping[str, Reaches]]:
        return {}

    def holdings(self, name: str) -> Iterator[Holding]:
        """Yield what each network has under a starred name."""
        for size, reaches in self.entries.get(name, {}).items():
            for highest, numbers in reaches.items():
                for number in numbers.split():
                    yield Holding(*self.places[int(number)], _integers(size), _integers(highest))


def starred(path: str) -> tuple[str, Numbers]:
    """Return a module's name with stars for numbers, and the numbers; dotted and flat names give the same."""
    (found,) = starred_all([path])
    return found


def starred_all(paths: Collection[str]) -> Iterator[tuple[str, Numbers]]:
    """Return for each path what :func:`starred` returns: a thousand of them at once are found in half the time."""
    text = _START.join(["", *paths]) + "\n"
    if text.count("\n") > len(paths) + 1:
        text = _START.join(["", *(path.replace("\n", " ") for path in paths)]) + "\n"
    flat = text.replace(".", "_").replace("*", "?").replace(_START + _WRAPPER, _START)
    pieces = _NUMBER.split(flat)
    numbers = map(int, pieces[1::2])
    names = "_*".join(pieces[::2])[:-1].split(_START)[1:]
    counts = map(str.count, names, repeat("*"))
    return zip(names, map(tuple, map(islice, repeat(numbers), counts)), strict=True)


@lru_cache(maxsize=1)
def read_index() -> Index:
    """Return the index. Takes a few milliseconds the first time."""
    raw: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    return Index(raw["networks"], raw["entries"])


def describe_index(targets: Mapping[str, Target]) -> dict[str, Any]:
    """Return the index of the families' targets, as it is written."""
    networks = {
        family: {component: len(shapes) for component, shapes in target.components.items()}
        for family, target in targets.items()
    }
    entries: dict[str, dict[str, dict[str, str]]] = {}
    everything = (shapes for target in targets.values() for shapes in target.components.values())
    for place, shapes in enumerate(everything):
        for (name, size), highest in _highest_numbers(shapes).items():
            found = entries.setdefault(name, {}).setdefault(_text(size), {})
            reach = _text(highest)
            found[reach] = f"{found[reach]} {place}" if reach in found else str(place)
    return {"networks": networks, "entries": entries}


def _highest_numbers(shapes: Mapping[str, Shape]) -> dict[tuple[str, Size], Numbers]:
    highest: dict[tuple[str, Size], Numbers] = {}
    for path, size in _sizes(shapes):
        name, numbers = starred(path)
        before = highest.get((name, size), numbers)
        highest[name, size] = tuple(map(max, before, numbers))
    return highest


def _sizes(shapes: Mapping[str, Shape]) -> Iterator[tuple[str, Size]]:
    """Yield every name of every module, its own and foreign ones, with the size of the weight that it names."""
    for path, shape in shapes.items():
        yield path, shape[:2]
    for foreign, parts in foreign_names(shapes).items():
        rows = max(part.rows[1] if part.rows else shapes[part.path][0] for part in parts)
        yield foreign, (rows, *shapes[parts[0].path][1:2])


def _text(numbers: Numbers) -> str:
    return ",".join(map(str, numbers))


@lru_cache(maxsize=4096)
def _integers(text: str) -> Numbers:
    return tuple(int(number) for number in text.split(",")) if text else ()
