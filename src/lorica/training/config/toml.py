"""Run files: TOML in, TOML out."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorica.errors import ConfigError, FileError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """Return the values of a TOML file.

    Raises:
        FileError: if the file cannot be read.
        ConfigError: if it is not TOML, naming the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read the run file {path}: {error}.") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error


def toml_line(name: str, value: object) -> str:
    """Return ``name = value`` for a text, number, switch or list of these; an unset value becomes a comment."""
    if value is None:
        return f"# {name} is unset\n"
    return f"{name} = {json.dumps(value, ensure_ascii=False)}\n"


def toml_tables(name: str, rows: Sequence[Mapping[str, object]]) -> str:
    """Return one ``[[name]]`` table for each row, unset values left out; they must stand last in a file."""
    return f"# {name} is unset\n" * (not rows) + "".join(
        f"\n[[{name}]]\n" + "".join(toml_line(key, value) for key, value in row.items() if value is not None)
        for row in rows
    )
