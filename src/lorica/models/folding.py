"""Tables in which blocks that are alike stand once: ``"transformer_blocks.[0-18]": {...}``.

A transformer of sixty blocks is then a table of some twenty lines, and a difference between two versions can be read.
Where two or three kinds of block alternate, each stands once below the run: ``"[0-23]": {"+0": {...}, "+1": {...}}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, cast

Shape = tuple[int, ...]  # of a tensor; the only alias for it
Folded = Mapping[str, Any]  # a path, or the path of a run of blocks, to a shape or to what each of the blocks holds
_PERIODS = (1, 2, 3)  # how many kinds of block may alternate; the fewest that fit
_RUN = re.compile(r"(?P<head>.*)\[(?P<first>\d+)-(?P<last>\d+)\]")


class _Node(dict[str, "_Node"]):
    """Tree of modules: children by the next part of the path, and the shape of the module at this path, if any."""

    shape: Shape | None = None


def fold(modules: Mapping[str, Shape]) -> dict[str, Any]:
    """Table with each run of equal consecutive blocks written once, in the same order."""
    root = _Node()
    for path, shape in modules.items():
        node = root
        for part in path.split("."):
            node = node.setdefault(part, _Node())
        node.shape = shape
    return dict(_lines(root))


def unfold(folded: Folded) -> dict[str, Shape]:
    """Path and shape of every module: the inverse of :func:`fold`."""
    return dict(_modules(folded))


def fold_names(names: Iterable[str]) -> list[str]:
    """Names with each run of numbers written once: ``blocks.0``, ``blocks.1`` become ``blocks.[0-1]``."""
    runs = groupby(enumerate(names), key=_run)
    return [_name_of_run(head, [name for _, name in run]) for (head, _), run in runs]


def unfold_names(folded: Iterable[str]) -> tuple[str, ...]:
    """The inverse of :func:`fold_names`."""
    return tuple(name for text in folded for name in _each(text))


def _lines(node: _Node) -> Iterator[tuple[str, Any]]:
    """Lines of a table: paths down to the first run of blocks, and the content of that run."""
    if node.shape is not None:
        yield "", list(node.shape)
    children = [(part, dict(_lines(child))) for part, child in node.items()]
    texts = [json.dumps(content) for _, content in children]
    start = 0
    while start < len(children):
        period, end = _period([name for name, _ in children], texts, start)
        name, content = children[start]
        if end == start + 1:
            yield from ((f"{name}.{rest}" if rest else name, value) for rest, value in content.items())
        else:
            kinds = {f"+{place}": _bare(children[start + place][1]) for place in range(period)}
            yield f"[{name}-{children[end - 1][0]}]", kinds if period > 1 else kinds["+0"]
        start = end


def _period(names: Sequence[str], texts: Sequence[str], start: int) -> tuple[int, int]:
    """Number of kinds of block that alternate from ``start`` on, each at least twice, and the end of the run."""
    for period in _PERIODS:
        end = start
        while end < len(names) and _continues(names, texts, start, end, period):
            end += 1
        if end - start >= 2 * period:
            return period, end
    return 1, start + 1


def _continues(names: Sequence[str], texts: Sequence[str], start: int, place: int, period: int) -> bool:
    """Whether a block has the next number, and the content of the block one period before it."""
    if not (names[start].isdecimal() and names[place].isdecimal()):
        return False
    before = place - period
    return int(names[place]) - int(names[start]) == place - start and (before < start or texts[before] == texts[place])


def _bare(content: dict[str, Any]) -> Any:
    """The shape alone, for a block that is one module."""
    return content[""] if set(content) == {""} else content


def _run(placed: tuple[int, str]) -> tuple[str, int | None]:
    """Key that is the same for neighbours with one prefix and consecutive numbers."""
    place, name = placed
    head, _, number = name.rpartition(".")
    return (f"{head}.", int(number) - place) if number.isdecimal() else (name, None)


def _name_of_run(head: str, names: list[str]) -> str:
    numbers = [name.removeprefix(head) for name in names]
    return names[0] if len(names) == 1 else f"{head}[{numbers[0]}-{numbers[-1]}]"


def _modules(folded: Folded) -> Iterator[tuple[str, Shape]]:
    for text, value in folded.items():
        kinds = [value] if not isinstance(value, Mapping) or "+0" not in value else list(value.values())
        inner = [_inside(kind) for kind in kinds]
        for place, name in enumerate(_each(text)):
            yield from ((f"{name}.{path}" if path else name, shape) for path, shape in inner[place % len(inner)])


def _inside(value: Any) -> tuple[tuple[str, Shape], ...]:
    """Content of one block: its modules, or its own weight."""
    return tuple(_modules(cast("Folded", value))) if isinstance(value, Mapping) else (("", tuple(value)),)


def _each(text: str) -> Iterable[str]:
    run = _RUN.fullmatch(text)
    if not run:
        return (text,)
    return (f"{run['head']}{number}" for number in range(int(run["first"]), int(run["last"]) + 1))
