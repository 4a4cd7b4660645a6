"""Write ``metadata.jsonl``: whole or not at all, and never over another one unasked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from lorica.data.metadata_rows import METADATA
from lorica.errors import DataError, FileError

LINE_ENDS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}  # some readers end a line at them


def write_metadata(
    folder: Path, captions: Mapping[Path, Iterable[str]], *, caption_column: str = "text", overwrite: bool = False
) -> Path:
    """Write one line for each caption of each picture, and return the file.

    Raises:
        DataError: if a file name cannot be written as text.
        FileError: if there is a ``metadata.jsonl`` and ``overwrite`` is false, or the folder cannot be written.
    """
    refuse_to_overwrite(folder / METADATA, overwrite)
    rows = ((path, caption) for path, several in captions.items() for caption in several)
    text = "".join(_line(path.relative_to(folder), caption_column, caption) for path, caption in rows)
    return write_whole(folder / METADATA, text)


def refuse_to_overwrite(path: Path, overwrite: bool) -> None:
    """Raise if there is such a file already.

    Raises:
        FileError: if there is one and ``overwrite`` is false.
    """
    if path.exists() and not overwrite:
        raise FileError(f"there is a file {path} already; move it away, or replace it with --overwrite.")


def write_whole(path: Path, text: str) -> Path:
    """Write a text file, whole or not at all.

    Raises:
        FileError: if it cannot be written.
    """
    waiting = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        waiting.write_text(text, encoding="utf-8", newline="\n")
        waiting.replace(path)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error}.") from error
    finally:
        with suppress(OSError):
            waiting.unlink(missing_ok=True)
    return path


def _line(name: Path, column: str, caption: str) -> str:
    try:
        name.as_posix().encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the file name {name.as_posix()!r} is not UTF-8; rename it.") from error
    line = json.dumps({"file_name": name.as_posix(), column: caption}, ensure_ascii=False)
    return line.translate(LINE_ENDS) + "\n"
