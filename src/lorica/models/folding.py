"""Tables in which blocks that are alike stand once: ``"transformer_blocks.[0-18]": {...}``.

A transformer of sixty blocks is then a table of some twenty lines, and a difference between two versions can be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

Shape = tuple[int, ...]
Folded = Mapping[str, Any]  # a path, or the path of a run of blocks, to a shape or to what each of the blocks holds
_RUN = re.compile(r"(?P<head>.*)\[(?P<first>\d+)-(?P<last>\d+)\]")


class _Node(dict[str, "_Node"]):
    """What stands below one path: by the next part of the path, and the shape of the module that has the path."""

    shape: Shape | None = None


def fold(modules: Mapping[str, Shape]) -> dict[str, Any]:
    """Return the table with each run of equal neighbouring blocks written once, in the same order."""
    root = _Node()
    for path, shape in modules.items():
        node = root
        for part in path.split("."):
            node = node.setdefault(part, _Node())
        node.shape = shape
    return dict(_lines(root))


def unfold(folded: Folded) -> dict[str, Shape]:
    """Return every module's path and shape: what :func:`fold` was given."""
    return dict(_modules(folded))


def fold_names(names: Iterable[str]) -> list[str]:
    """Return the names with each run of numbers written once: ``blocks.0``, ``blocks.1`` become ``blocks.[0-1]``."""
    runs = groupby(enumerate(names), key=_run)
    return [_name_of_run(head, [name for _, name in run]) for (head, _), run in runs]


def unfold_names(folded: Iterable[str]) -> tuple[str, ...]:
    """Return what :func:`fold_names` was given."""
    return tuple(name for text in folded for name in _each(text))


def _lines(node: _Node) -> Iterator[tuple[str, Any]]:
    """Yield the lines of a table: paths down to the first run of blocks, and what stands there."""
    if node.shape is not None:
        yield "", list(node.shape)
    children = [(part, dict(_lines(child))) for part, child in node.items()]
    for _, run in groupby(enumerate(children), key=_likeness):
        alike = [child for _, child in run]
        name, content = alike[0]
        if len(alike) == 1:
            yield from ((f"{name}.{rest}" if rest else name, value) for rest, value in content.items())
        else:
            yield f"[{name}-{alike[-1][0]}]", content[""] if set(content) == {""} else content


def _likeness(child: tuple[int, tuple[str, dict[str, Any]]]) -> Any:
    """Return a key that is the same for neighbours with consecutive numbers and equal content, in equal order."""
    place, (name, content) = child
    return (int(name) - place, list(content.items())) if name.isdecimal() else place


def _run(placed: tuple[int, str]) -> tuple[str, int | None]:
    """Return a key that is the same for neighbours with one start and consecutive numbers."""
    place, name = placed
    head, _, number = name.rpartition(".")
    return (f"{head}.", int(number) - place) if number.isdecimal() else (name, None)


def _name_of_run(head: str, names: list[str]) -> str:
    numbers = [name.removeprefix(head) for name in names]
    return names[0] if len(names) == 1 else f"{head}[{numbers[0]}-{numbers[-1]}]"


def _modules(folded: Folded) -> Iterator[tuple[str, Shape]]:
    for text, value in folded.items():
        if isinstance(value, Mapping):
            inner = tuple(_modules(value))
            for name in _each(text):
                yield from ((f"{name}.{path}" if path else name, shape) for path, shape in inner)
        else:
            shape = tuple(value)
            yield from ((name, shape) for name in _each(text))


def _each(text: str) -> Iterable[str]:
    run = _RUN.fullmatch(text)
    if not run:
        return (text,)
    return (f"{run['head']}{number}" for number in range(int(run["first"]), int(run["last"]) + 1))
