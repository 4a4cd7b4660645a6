"""Index of all families by the names and sizes of their modules: one small table, made by the script of the tables.

Names are written with underscores for dots, as in the flat formats, and with a star for each number between them:
``double_blocks_*_img_attn_qkv``. Foreign names are listed beside the model's own.
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
# Shape of weights, without the kernel, to the highest numbers in their modules' paths, for each network.
Reaches = Mapping[Shape, Sequence[tuple[int, ...]]]
TEXT = "text_encoder"  # how the names of the components begin that read the prompt
_NUMBER = re.compile(r"_(\d{1,9})(?=[_\n])")
_WRAPPER = WRAPPER.replace(".", "_")
_START = "\n_"  # of every path, while there are many in one text


@dataclass(frozen=True)
class Index:
    """The modules of every network of every family.

    Args:
        networks: family to component to the number of its modules.
        entries: starred name to size to the highest numbers to the networks, as the file has it.
    """

    networks: Mapping[str, Mapping[str, int]]
    entries: Mapping[str, Mapping[str, Mapping[str, str]]]

    @cached_property
    def numbered(self) -> list[tuple[str, str]]:
        """Family and component of each network, by its number in the entries."""
        return [(family, component) for family, counts in self.networks.items() for component in counts]


@lru_cache(maxsize=1)
def read_index() -> Index:
    """The index, read once; that takes a few milliseconds."""
    raw: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    return Index(raw["networks"], raw["entries"])


@lru_cache(maxsize=4096)
def reaches_of(name: str, *, text: bool | None = None) -> Mapping[str, Reaches]:
    """Each family's modules of a starred name: their sizes, and how far the numbers in their paths go.

    Args:
        name: the starred name.
        text: only in text encoders, or only in other networks; None is in all.
    """
    index = read_index()
    found: dict[str, dict[Shape, list[tuple[int, ...]]]] = {}
    for size, highest in index.entries.get(name, {}).items():
        for numbers, networks in highest.items():
            for family, component in (index.numbered[int(network)] for network in networks.split()):
                if text is None or text == component.startswith(TEXT):
                    found.setdefault(family, {}).setdefault(_integers(size), []).append(_integers(numbers))
    return found


def starred(path: str) -> tuple[str, tuple[int, ...]]:
    """A module's name with stars for numbers, and the numbers; dotted and flat names give the same."""
    (found,) = starred_all([path])
    return found


def starred_all(paths: Collection[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The result of :func:`starred` for each path; all in one pass over one text, which takes half the time."""
    text = _START.join(["", *paths]) + "\n"
    if text.count("\n") > len(paths) + 1:  # a name from a broken file may hold a newline, which ends a path here
        text = _START.join(["", *(path.replace("\n", " ") for path in paths)]) + "\n"
    # A star in a name must not stand for a number, and CLIP's paths are indexed without their wrapper.
    flat = text.replace(".", "_").replace("*", "?").replace(_START + _WRAPPER, _START)
    pieces = _NUMBER.split(flat)
    numbers = map(int, pieces[1::2])
    names = "_*".join(pieces[::2])[:-1].split(_START)[1:]
    counts = map(str.count, names, repeat("*"))
    return zip(names, map(tuple, map(islice, repeat(numbers), counts)), strict=True)


def describe_index(targets: Mapping[str, Target]) -> dict[str, Any]:
    """Index of the families' targets, as it is written."""
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


def _highest_numbers(shapes: Mapping[str, Shape]) -> dict[tuple[str, Shape], tuple[int, ...]]:
    highest: dict[tuple[str, Shape], tuple[int, ...]] = {}
    for path, size in _sizes(shapes):
        name, numbers = starred(path)
        before = highest.get((name, size), numbers)
        highest[name, size] = tuple(map(max, before, numbers))
    return highest


def _sizes(shapes: Mapping[str, Shape]) -> Iterator[tuple[str, Shape]]:
    """Every name of every module, its own and foreign ones, with the size of the weight that it names."""
    for path, shape in shapes.items():
        yield path, shape[:2]
    for foreign, parts in foreign_names(shapes).items():
        rows = max(part.rows[1] if part.rows else shapes[part.path][0] for part in parts)
        yield foreign, (rows, *shapes[parts[0].path][1:2])


def _text(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


@lru_cache(maxsize=4096)
def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",")) if text else ()
