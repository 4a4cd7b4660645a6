"""Output of ``lorica inspect`` for people: the description in words first, then tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby, islice, zip_longest
from math import hypot
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lorica.errors import escaped
from lorica.tools.advice import command, describe, size
from lorica.tools.facts import Block, Component, Facts, Fit, FolderFacts, Hash

ROWS = 12  # of a list that may be long
BAR = 24  # characters of the longest bar
COLOURS: dict[str, str] = {"right": "green", "wrong": "bold red", "not stored": "dim", "not checked": "dim"}
VERDICTS: dict[str, str] = {
    "right": "as the file says",
    "wrong": "NOT what the file says",
    "not stored": "",
    "not checked": "not checked",
}


def print_facts(facts: Facts, *, with_metadata: bool = False) -> None:
    """Print the facts of one file."""
    console = Console(highlight=False)
    fits = facts.fit is None or facts.fit.whole
    styles = ["" if facts.fit is None else "bold green" if fits and not facts.problem else "bold red"]
    for paragraph, style in zip_longest(describe(facts), styles, fillvalue=""):
        console.print(plain(paragraph, style), end="\n\n")
    if facts.problem:
        console.print(Text.assemble(("It cannot be used as it is. ", "bold red"), plain(facts.problem)), end="\n\n")
    elif fits and (line := command(facts)):
        console.print(plain(f"  {line}", "bold"), end="\n\n", soft_wrap=True)  # one line, to be copied
    console.print(Group(*_tables(facts, with_metadata=with_metadata)))


def plain(text: str, style: str = "") -> Text:
    """A text as it stands in a file: nothing in it is markup or moves the cursor."""
    return Text(escaped(text), style=style)


def print_folder(folder: FolderFacts) -> None:
    """Print a line for each file of a folder, then the problems of those that have any."""
    console = Console(highlight=False)
    title = plain(f"{len(folder.files)} adapters in {folder.folder}")
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    for heading in ("file", "for", "what", "rank", "modules", "size", "prompt words", "fits"):
        table.add_column(heading, justify="right" if heading in ("modules", "size") else "left", overflow="fold")
    for facts in folder.files:
        table.add_row(*map(plain, _line(facts, Path(folder.folder))))
    console.print(table)
    problems = {facts.source: facts.problem for facts in folder.files if facts.problem}
    for source, problem in {**folder.broken, **problems}.items():
        console.print(Text.assemble(plain(f"{source}: ", "bold red"), plain(problem)))


def _line(facts: Facts, folder: Path) -> Iterator[str]:
    yield str(Path(facts.source).relative_to(folder))
    yield facts.base.title
    yield ", ".join(facts.methods)
    yield _spread(facts.ranks)
    yield str(facts.modules)
    yield size(facts.size or 0)
    yield ", ".join(facts.training.trigger_words[:3])
    yield f"{facts.fit.fitting}/{facts.fit.modules}" if facts.fit else ""


def _tables(facts: Facts, *, with_metadata: bool) -> Iterator[RenderableType]:
    yield _pairs("The file", dict(_about(facts)))
    if facts.components:
        yield _changes(facts)
    if facts.fit:
        yield from _fit(facts.fit)
    if facts.training.settings:
        yield _pairs("Training, as the file tells it", facts.training.settings, limit=len(facts.training.settings))
    if facts.training.tags:
        yield _pairs("Words of the captions", {tag: str(count) for tag, count in facts.training.tags.items()})
    if facts.hashes:
        yield _hashes(facts.hashes)
    if facts.embeddings:
        yield _pairs("New words", {token: _shapes(parts) for token, parts in facts.embeddings.items()})
    if facts.unused:
        yield _pairs(f"{len(facts.unused)} keys of which nothing can be made", facts.unused)
    if with_metadata:
        yield _pairs("Metadata", facts.metadata, limit=len(facts.metadata))


def _about(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "format", facts.format
    yield "base model", "\n".join((facts.base.title, *(f"  {reason}" for reason in facts.base.evidence)))
    yield "trainer", "\n".join((facts.trainer.title, *(f"  {reason}" for reason in facts.trainer.evidence)))
    yield "methods", ", ".join(f"{kind} ({count} modules)" for kind, count in facts.methods.items()) or "none"
    yield "rank", _spread(facts.ranks)
    yield "alpha", _spread(facts.alphas)
    yield "numbers", f"{facts.parameters:,} in {', '.join(facts.dtypes)}"
    if facts.training.notes:
        yield "metadata", "\n".join(facts.training.notes)


def _spread(counts: Mapping[int, int] | Mapping[float, int]) -> str:
    """Values that occur; with the count of each if there are several."""
    if len(counts) <= 1:
        return "".join(f"{value:g}" for value in counts)
    shown = ", ".join(f"{value:g} ({count}×)" for value, count in islice(counts.items(), ROWS))  # noqa: RUF001
    return f"{shown}, and {len(counts) - ROWS} more values" if len(counts) > ROWS else shown


def _changes(facts: Facts) -> Table:
    """Table of blocks: the number of changed modules in each, and the norm of the change, as a number and as a bar."""
    table = Table(box=box.SIMPLE, title="What it changes", title_justify="left", title_style="bold")
    table.add_column("block", overflow="fold")
    table.add_column("modules", justify="right")
    measured = any(component.norm is not None for component in facts.components)
    if measured:
        table.add_column("change", justify="right")
        table.add_column("", min_width=BAR)
    for component in facts.components:
        blocks = _few(component.blocks)
        longest = max((block.norm or 0.0 for block in blocks), default=0.0)
        table.add_row(*map(plain, _head(component)), style="bold")
        for block in blocks:
            cells = (f"  {block.name}", str(block.modules), _number(block.norm), _bar(block.norm, longest))
            table.add_row(*map(plain, cells[: 4 if measured else 2]))
        table.add_section()
    return table


def _few(blocks: tuple[Block, ...]) -> list[Block]:
    """Blocks under their short names; where there are many, several neighbours of one kind as one."""
    at_once = -(-len(blocks) // ROWS)
    few: list[Block] = []
    for kind, run in groupby(blocks, key=_kind):
        members = list(run)
        few += [_joined(kind, members[place : place + at_once]) for place in range(0, len(members), at_once)]
    return few


def _joined(kind: str, blocks: list[Block]) -> Block:
    first, last = (block.name.removeprefix(f"{kind}.") for block in (blocks[0], blocks[-1]))
    numbers = first if len(blocks) == 1 else f"{first} to {last}"
    name = f"{kind.rpartition('.')[2]} {numbers}" if first.isdecimal() else first
    norms = [block.norm for block in blocks if block.norm is not None]
    return Block(name, sum(block.modules for block in blocks), hypot(*norms) if norms else None)


def _kind(block: Block) -> str:
    """Kind of a block: the list that it is in, or the block itself."""
    head, _, number = block.name.rpartition(".")
    return head if number.isdecimal() else block.name


def _head(component: Component) -> Iterator[str]:
    parts = ", ".join(f"{count} {part}" for part, count in component.parts.items())
    yield f"{component.name}: {parts}"
    yield str(component.modules)
    if component.norm is not None:
        yield _number(component.norm)
        yield f"{component.unmeasured} not measured: they depend on the base" if component.unmeasured else ""


def _number(norm: float | None) -> str:
    return "" if norm is None else f"{norm:.3g}"


def _bar(norm: float | None, longest: float) -> str:
    return "█" * round(BAR * norm / longest) if norm and longest > 0 else ""


def _fit(fit: Fit) -> Iterator[RenderableType]:
    if fit.problems:
        yield _pairs(f"What does not fit {fit.model}", fit.problems)


def _hashes(hashes: tuple[Hash, ...]) -> Table:
    table = Table(box=box.SIMPLE, title="Hashes", title_justify="left", title_style="bold", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for each in hashes:
        colour = COLOURS[each.verdict]
        said = f" (it says {each.stored})" if each.verdict == "wrong" else ""
        lines = [plain(each.value or each.stored or "cannot be computed")]
        if VERDICTS[each.verdict]:
            lines.append(plain(f"{VERDICTS[each.verdict]}{said}", colour))
        table.add_row(each.name, Text("\n").join([*lines, Text(each.note, style="dim")]))
    return table


def _pairs(title: str, rows: Mapping[str, str], *, limit: int = ROWS) -> Table:
    """Table of names and texts, truncated to ``limit`` rows."""
    table = Table(box=box.SIMPLE, title=title, title_justify="left", title_style="bold", show_header=False)
    table.add_column(style="cyan", overflow="fold")
    table.add_column(overflow="fold")
    for name, text in islice(rows.items(), limit):
        table.add_row(plain(name), plain(text))
    if len(rows) > limit:
        table.add_row("", f"and {len(rows) - limit} more; --json shows all")
    return table


def _shapes(parts: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{component} {shape}" for component, shape in parts.items())
