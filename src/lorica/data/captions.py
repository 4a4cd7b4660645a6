"""Captions of the pictures of a folder, and every fault in them: training stops at the first, ``prepare`` lists all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorica.data.findings import Finding
from lorica.data.metadata import MOST_CAPTION, TABLES, parse_table, spellings
from lorica.data.picture_files import is_visible
from lorica.errors import DataError, FileError
from lorica.printing import printable, read_text

SIDECAR = ".txt"
# Endings of a caption file beside a picture, most usual first; the last is put behind the whole name: p.png.txt.
SIDECARS = (SIDECAR, ".TXT", ".Txt", ".caption")
MOST_TABLE = 2**30  # bytes of a table of captions


@dataclass(slots=True)
class FolderCaptions:
    """Captions as they were found, and what is wrong.

    Args:
        source: where they come from, for people.
        rows: picture and captions, in the order of the source; a picture may have several rows.
        findings: the faults.
    """

    source: str
    rows: list[tuple[Path, tuple[str, ...]]] = field(default_factory=list[tuple[Path, tuple[str, ...]]])
    findings: list[Finding] = field(default_factory=list[Finding])

    def by_picture(self) -> dict[Path, tuple[str, ...]]:
        """All captions of each picture that has any."""
        found: dict[Path, tuple[str, ...]] = {}
        for path, captions in self.rows:
            found[path] = (*found.get(path, ()), *captions)
        return found


def read_captions(
    folder: Path, pictures: Sequence[Path], *, column: str = "text", one_a_line: bool = False, only_text: bool = False
) -> FolderCaptions:
    """Captions from a table if there is one, else from the text file beside each picture.

    A table is ``metadata.jsonl``, ``metadata.csv`` or ``captions.csv``; a text file is ``p.txt``, ``p.caption`` or
    ``p.png.txt`` for ``p.png``.

    Args:
        folder: the folder.
        pictures: its pictures.
        column: the field of the table with the caption: a text, or a list of them.
        one_a_line: a text file holds a caption on each line, not one whose line ends count as spaces.
        only_text: read text files even where there is a table.

    Raises:
        DataError: if the table as a whole is not text.
    """
    table = next((name for name in TABLES if (folder / name).is_file()), None)
    if only_text or table is None:
        return _from_text_files(folder, pictures, one_a_line=one_a_line)
    return _from_table(folder, table, pictures, column)


def text_files_without_picture(folder: Path, pictures: Iterable[Path]) -> Iterator[Finding]:
    """Note for each visible text file that lies beside no picture of its name."""
    read = {sidecar for path in pictures if (sidecar := find_sidecar(path)) is not None}
    stems = {path.with_suffix("") for path in pictures}
    for path in sorted(folder.rglob(f"*{SIDECAR}")):
        if is_visible(path, folder) and path not in read and path.with_suffix("") not in stems:
            expected = f"no picture {printable(path.stem)} beside it"
            yield Finding("caption_without_picture", name_in(folder, path), expected)


def captions_in(text: str) -> tuple[str, ...]:
    """Captions in a text file that holds one per line; empty lines are skipped."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return tuple(line for line in lines if line)


def name_in(folder: Path, path: Path) -> str:
    """Name of a file for people: relative to the folder if it lies there, and always printable."""
    name = path.relative_to(folder) if path.is_relative_to(folder) else path
    return printable(name.as_posix())


def _from_text_files(folder: Path, pictures: Iterable[Path], *, one_a_line: bool) -> FolderCaptions:
    found = FolderCaptions("text files")
    for path in pictures:
        sidecar = find_sidecar(path)
        if sidecar is None:
            missing = f"there is no {printable(path.with_suffix(SIDECAR).name)}"
            found.findings.append(Finding("caption_missing", name_in(folder, path), missing))
            continue
        try:
            captions = _captions_of(read_text(sidecar), one_a_line=one_a_line)
        except (DataError, OSError) as error:
            fault = str(error).removeprefix(printable(sidecar)).lstrip(", ")
            found.findings.append(Finding("caption_unreadable", name_in(folder, sidecar), fault))
        else:
            found.rows.append((path, captions))
    return found


def find_sidecar(picture: Path) -> Path | None:
    """Caption file beside a picture, if there is one; names may be composed in either way (``é`` or ``e`` and mark)."""
    names = (*(picture.with_suffix(ending).name for ending in SIDECARS), picture.name + SIDECAR)
    for spelled in (spelling for name in names for spelling in spellings(name)):
        if os.path.isfile(picture.parent / spelled):  # noqa: PTH113  # pathlib raises for names that are too long
            return picture.parent / spelled
    return None


def _captions_of(text: str, *, one_a_line: bool) -> tuple[str, ...]:
    captions = (captions_in(text) if one_a_line else ()) or (" ".join(text.split()),)
    if (longest := max(map(len, captions))) > MOST_CAPTION:
        raise DataError(f"has a caption of {longest:,} characters, at most {MOST_CAPTION:,}: is it the right file?")
    return captions


def _from_table(folder: Path, table: str, pictures: Iterable[Path], column: str) -> FolderCaptions:
    found, named = FolderCaptions(table), set[Path | None]()
    try:
        text = read_text(folder / table, MOST_TABLE)
    except (FileError, OSError) as error:
        raise DataError(f"{error}.") from error
    for row in parse_table(text, folder, table, column):
        named.add(row.path)
        if row.fault or row.path is None:
            found.findings.append(Finding("metadata_line", table, f"line {row.number}: {row.fault}"))
        elif not row.exists:
            where = f"{table}, line {row.number}"
            found.findings.append(Finding("metadata_without_file", name_in(folder, row.path), where))
        else:
            found.rows.append((row.path, row.captions))
    found.findings.extend(
        Finding("caption_missing", name_in(folder, path), f"{table} has no line for it")
        for path in pictures
        if path not in named
    )
    return found
