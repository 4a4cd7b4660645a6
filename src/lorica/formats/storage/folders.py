"""Adapter files in a folder and the folders below it."""

from __future__ import annotations

from pathlib import Path

from lorica.formats.storage.sources import SUFFIXES
from lorica.run_files import is_run_state


def adapter_files(folder: Path) -> list[Path]:
    """Files of a folder that may be adapters, in the order of their paths; hidden ones are left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not _is_hidden(path.relative_to(folder)) and not is_run_state(path))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
