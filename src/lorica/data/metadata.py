"""Tables of captions, a line with the name of each picture and its caption: JSON lines read and written, CSV read."""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

from lorica.errors import DataError, FileError
from lorica.formats.storage.files import save_text
from lorica.printing import is_text, printable

METADATA = "metadata.jsonl"
TABLES = (METADATA, "metadata.csv", "captions.csv")
FILE_NAME = "file_name"
FILE_COLUMNS = (FILE_NAME, "filename", "file", "image", "image_file", "path")  # of a CSV
CAPTION_COLUMNS = ("text", "caption", "prompt")
MOST_CAPTION = 10_000  # characters
EXAMPLE = '{"file_name": "a.png", "text": "a red heart"}'
LINE_ENDS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}  # some readers end a line at them


class MetadataRow(NamedTuple):
    """One line: the picture that it names, whether that file exists, and its captions; or the fault of the line."""

    number: int
    path: Path | None = None
    exists: bool = False
    captions: tuple[str, ...] = ()
    fault: str = ""


def parse_rows(text: str, folder: Path, column: str) -> Iterator[MetadataRow]:
    """Rows of a ``metadata.jsonl`` in ``folder``, numbered from 1; empty lines are skipped.

    A line ends at a newline and nowhere else: a caption may hold other marks that Python counts as ends of lines.
    """
    lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    return (_row(number, partial(_parse_object, line), folder, column) for number, line in lines)


def parse_table(text: str, folder: Path, name: str, column: str) -> Iterator[MetadataRow]:
    """Rows of a table of captions, numbered by their lines.

    A CSV names its columns in the first line; ``caption`` and ``prompt`` are understood in place of ``text``.
    """
    return parse_rows(text, folder, column) if name == METADATA else _csv_rows(text, folder, column)


def spellings(name: str) -> tuple[str, ...]:
    """A file name as it is, and with its accents composed (NFC, usual) and decomposed (NFD, of macOS)."""
    return tuple(dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))))


def write_metadata(
    folder: Path, captions: Mapping[Path, Iterable[str]], *, caption_column: str = "text", overwrite: bool = False
) -> Path:
    """Write one line for each caption of each picture, whole or not at all, and return the file.

    Raises:
        DataError: if a file name cannot be written as text.
        FileError: if there is a ``metadata.jsonl`` and ``overwrite`` is false, or the folder cannot be written.
    """
    path = folder / METADATA
    refuse_to_overwrite(path, overwrite)
    rows = ((picture, caption) for picture, several in captions.items() for caption in several)
    save_text("".join(_line(picture.relative_to(folder), caption_column, caption) for picture, caption in rows), path)
    return path


def refuse_to_overwrite(path: Path, overwrite: bool) -> None:
    """Raise if a new file must not be written at ``path``.

    Raises:
        FileError: if there is such a file and ``overwrite`` is false, or there is no folder for it.
    """
    if os.path.exists(path) and not overwrite:  # noqa: PTH110  # pathlib raises for names that are too long
        raise FileError(f"there is a file {path} already; move it away, or replace it with --overwrite.")
    if not path.parent.is_dir():
        raise FileError(f"cannot write {path}: there is no folder {path.parent}.")


def _row(number: int, parse: Callable[[], Mapping[str, object]], folder: Path, column: str) -> MetadataRow:
    path = None
    try:
        fields = parse()
        name = _file_name(fields)
        found = [folder / spelled for spelled in spellings(name) if os.path.isfile(folder / spelled)]  # noqa: PTH113
        path = found[0] if found else folder / name
        return MetadataRow(number, path, bool(found), _captions(fields, column))
    except DataError as error:
        return MetadataRow(number, path, fault=str(error))


def _csv_rows(text: str, folder: Path, column: str) -> Iterator[MetadataRow]:
    reader = csv.DictReader(text.replace("\0", "").splitlines(keepends=True))
    try:
        columns = list(reader.fieldnames or ())
        files = next((name for name in FILE_COLUMNS if name in columns), FILE_NAME)
        own = column if column in columns or column not in CAPTION_COLUMNS else None
        texts = own or next((name for name in CAPTION_COLUMNS if name in columns), column)
        for fields in reader:
            named = {FILE_NAME if name == files else name: value for name, value in fields.items() if name is not None}
            yield _row(reader.line_num, partial(dict, named), folder, texts)
    except csv.Error as error:
        yield MetadataRow(reader.line_num, fault=f"not valid CSV ({error}).")


def _parse_object(line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON ({error}); expected a line such as {EXAMPLE}.") from error
    if not isinstance(row, dict):
        raise DataError(f"expected an object such as {EXAMPLE}, got {printable(line.strip(), 60)}.")
    return cast("dict[str, object]", row)


def _file_name(row: Mapping[str, object]) -> str:
    name = _field(row, FILE_NAME)
    if not isinstance(name, str) or not name:
        raise DataError(f"{FILE_NAME!r} must be the name of a file, got {printable(repr(name))}.")
    return name


def _captions(row: Mapping[str, object], column: str) -> tuple[str, ...]:
    """Caption of a row, or its captions if there is a list of them."""
    value = _field(row, column, " Name the field of the caption with --caption_column.")
    captions = cast("list[object]", value) if isinstance(value, list) else [value]
    if not captions or not all(isinstance(caption, str) for caption in captions):
        raise DataError(f"{column!r} must be a text or a list of texts, got {printable(repr(value))}.")
    for caption in cast("list[str]", captions):
        if not is_text(caption):
            raise DataError(f"{column!r} holds half of a character, as in {printable(caption, 60)!r}; write it whole.")
        if len(caption) > MOST_CAPTION:
            raise DataError(f"{column!r} has {len(caption):,} characters, at most {MOST_CAPTION:,}.")
    return tuple(cast("list[str]", captions))


def _field(row: Mapping[str, object], name: str, advice: str = "") -> object:
    if name in row:
        return row[name]
    near = get_close_matches(name, row, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    columns = printable(", ".join(repr(column) for column in row))
    raise DataError(f"there is no field {name!r}{hint} It holds: {columns or 'nothing'}.{advice}")


def _line(name: Path, column: str, caption: str) -> str:
    try:
        name.as_posix().encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the file name {name.as_posix()!r} is not UTF-8; rename it.") from error
    line = json.dumps({"file_name": name.as_posix(), column: caption}, ensure_ascii=False)
    return line.translate(LINE_ENDS) + "\n"
