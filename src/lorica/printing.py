"""Text from outside as it can be shown, and text files as they can be read: no name or byte stops a message."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from lorica.errors import FileError

LONGEST = 200  # characters of a foreign text in a message
MOST_BYTES = 2**20  # of a text file that people write
UNITS = ((2**30, "GB"), (2**20, "MB"), (2**10, "KB"))


def printable(value: object, longest: int = LONGEST) -> str:
    """Text with escapes for what no terminal shows: control characters and lone surrogates; its middle is cut."""
    text = "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in str(value))
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]}"


def readable_bytes(count: int) -> str:
    """A number of bytes with a unit."""
    for size, unit in UNITS:
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def is_text(value: str) -> bool:
    """Whether a text can be written to a file: it holds no lone surrogate, half of a character."""
    return not any("\ud800" <= mark <= "\udfff" for mark in value)


def is_path(path: str | Path) -> bool:
    """Whether a file system could hold a path: its parts are not too long, and it holds no zero byte."""
    try:
        os.stat(path)  # noqa: PTH116
    except ValueError:
        return False
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    return True


def expanded(path: str | Path) -> Path:
    """Path with ``~`` replaced by the home folder; one of a user that is not known stays as it is, to be not found."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # pathlib raises


def read_lines(path: Path) -> list[str]:
    """Lines of a text file that say something; empty ones and those that begin with ``#`` are left out.

    Raises:
        OSError: as :func:`read_text`.
    """
    lines = (line.strip() for line in read_text(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Text of a file in UTF-8, with or without a byte-order mark.

    Raises:
        FileError: if it cannot be read, is longer than ``most`` bytes or not UTF-8; then the line is named.
        FileNotFoundError: if there is none.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(f"{printable(path)} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > most:
        raise FileError(f"{printable(path)} has more than {most:,} bytes; is it the right file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileError(f"{printable(path)}, line {line} is not UTF-8 ({error.reason}); save it as UTF-8") from error
