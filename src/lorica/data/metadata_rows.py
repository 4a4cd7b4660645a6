"""The rows of ``metadata.jsonl``: which picture each is about, and its captions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import cast

from lorica.errors import DataError

METADATA = "metadata.jsonl"
FILE_NAME = "file_name"
EXAMPLE = '{"file_name": "a.png", "text": "a red heart"}'


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """Return the lines that are not empty, each with its number from 1 on.

    A line ends at a newline and nowhere else: a caption may hold other marks that Python counts as ends of lines.
    """
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def parse_row(line: str) -> dict[str, object]:
    """Return the fields of one line.

    Raises:
        DataError: if it is not a JSON object.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON ({error}); expected a line such as {EXAMPLE}.") from error
    if not isinstance(row, dict):
        raise DataError(f"expected an object such as {EXAMPLE}, got {line.strip()[:60]}.")
    return cast("dict[str, object]", row)


def file_name_of(row: Mapping[str, object]) -> str:
    """Return the name of the picture that a row is about.

    Raises:
        DataError: if there is none.
    """
    name = _field(row, FILE_NAME)
    if not isinstance(name, str) or not name:
        raise DataError(f"{FILE_NAME!r} must be the name of a file, got {name!r}.")
    return name


def captions_of(row: Mapping[str, object], column: str) -> tuple[str, ...]:
    """Return the caption of a row, or its captions if there is a list of them.

    Raises:
        DataError: if there is none, or something else.
    """
    value = _field(row, column, " Name the field of the caption with --caption_column.")
    captions = cast("list[object]", value) if isinstance(value, list) else [value]
    if not captions or not all(isinstance(caption, str) for caption in captions):
        raise DataError(f"{column!r} must be a text or a list of texts, got {value!r}.")
    return tuple(cast("list[str]", captions))


def _field(row: Mapping[str, object], name: str, advice: str = "") -> object:
    if name in row:
        return row[name]
    near = get_close_matches(name, row, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    columns = ", ".join(repr(column) for column in row)
    raise DataError(f"there is no field {name!r}{hint} It holds: {columns or 'nothing'}.{advice}")
