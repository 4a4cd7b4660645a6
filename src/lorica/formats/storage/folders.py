"""Adapter files in a folder and the folders below it."""

from __future__ import annotations

from pathlib import Path

from lorica.formats.storage.sources import SUFFIXES

# Beside its adapter a checkpoint of ours keeps the state of the optimizer in a file of the same suffix.
STATE, CHECKPOINT = "state.safetensors", "checkpoint.json"


def adapter_files(folder: Path) -> list[Path]:
    """Files of a folder that may be adapters, in the order of their paths; hidden ones are left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not _is_hidden(path.relative_to(folder)) and not _is_state(path))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_state(path: Path) -> bool:
    return path.name == STATE and path.with_name(CHECKPOINT).is_file()
