"""Captions of the pictures of a folder, and every fault in them: training stops at the first, ``prepare`` lists all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorica.data.findings import Finding
from lorica.data.metadata import METADATA, parse_rows
from lorica.data.picture_files import SUFFIXES, is_visible
from lorica.errors import DataError

SIDECAR = ".txt"


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
    """Captions from ``metadata.jsonl`` if there is one, else from the ``.txt`` file beside each picture.

    Args:
        folder: the folder.
        pictures: its pictures.
        column: the field of ``metadata.jsonl`` with the caption: a text, or a list of them.
        one_a_line: a text file holds a caption on each line, not one whose line ends count as spaces.
        only_text: read text files even where there is a ``metadata.jsonl``.

    Raises:
        DataError: if ``metadata.jsonl`` as a whole is not text.
    """
    if only_text or not (folder / METADATA).is_file():
        return _from_text_files(folder, pictures, one_a_line=one_a_line)
    return _from_metadata(folder, pictures, column)


def text_files_without_picture(folder: Path, pictures: Iterable[Path]) -> Iterator[Finding]:
    """Note for each visible text file that lies beside no picture of its name."""
    stems = {path.with_suffix("") for path in pictures}
    for path in sorted(folder.rglob(f"*{SIDECAR}")):
        if is_visible(path, folder) and path.with_suffix("") not in stems:
            expected = f"no picture {path.stem} beside it ({', '.join(sorted(SUFFIXES))})"
            yield Finding("caption_without_picture", name_in(folder, path), expected)


def captions_in(text: str) -> tuple[str, ...]:
    """Captions in a text file that holds one per line; empty lines are skipped."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return tuple(line for line in lines if line)


def name_in(folder: Path, path: Path) -> str:
    """Name of a file for people: relative to the folder if it lies there, and always printable."""
    name = path.relative_to(folder) if path.is_relative_to(folder) else path
    return name.as_posix().encode("utf-8", "replace").decode()


def _from_text_files(folder: Path, pictures: Iterable[Path], *, one_a_line: bool) -> FolderCaptions:
    found = FolderCaptions("text files")
    for path in pictures:
        sidecar = path.with_suffix(SIDECAR)
        try:
            text = _read_text(sidecar)
        except FileNotFoundError:
            found.findings.append(Finding("caption_missing", name_in(folder, path), f"there is no {sidecar.name}"))
        except (UnicodeDecodeError, OSError) as error:
            found.findings.append(Finding("caption_unreadable", name_in(folder, sidecar), str(error)))
        else:
            found.rows.append((path, (captions_in(text) if one_a_line else ()) or (" ".join(text.split()),)))
    return found


def _from_metadata(folder: Path, pictures: Iterable[Path], column: str) -> FolderCaptions:
    found, named = FolderCaptions(METADATA), set[Path | None]()
    try:
        text = _read_text(folder / METADATA)
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{folder / METADATA} cannot be read ({error}); save it as UTF-8.") from error
    for row in parse_rows(text, folder, column):
        named.add(row.path)
        if row.fault or row.path is None:
            found.findings.append(Finding("metadata_line", METADATA, f"line {row.number}: {row.fault}"))
        elif not row.exists:
            where = f"{METADATA}, line {row.number}"
            found.findings.append(Finding("metadata_without_file", name_in(folder, row.path), where))
        else:
            found.rows.append((row.path, row.captions))
    found.findings.extend(
        Finding("caption_missing", name_in(folder, path), f"{METADATA} has no line for it")
        for path in pictures
        if path not in named
    )
    return found


def _read_text(path: Path) -> str:
    """Text of a file, with or without a byte-order mark."""
    return path.read_text(encoding="utf-8-sig")
