"""What lies in a folder of adapters: the facts of each file, and why some have none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lorica.errors import FileError, LoRAError
from lorica.formats.storage.sources import PREFERRED, SUFFIXES
from lorica.tools.facts import Facts
from lorica.tools.inspect import inspect


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """What was found in a folder.

    Args:
        folder: the folder.
        files: the facts of every file that could be looked into, by name.
        broken: file to the reason why it could not.
    """

    folder: str
    files: tuple[Facts, ...]
    broken: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain dictionaries and lists, for JSON."""
        return {
            "folder": self.folder,
            "files": [facts.as_dict() for facts in self.files],
            "broken": dict(self.broken),
        }


def inspect_folder(
    folder: Path, *, model: str | Path | None = None, norms: bool = False, hashes: bool = False
) -> FolderFacts:
    """Return the facts of every adapter file in a folder and the folders below it.

    Args:
        folder: where to look.
        model: a base model that each file is held against.
        norms: measure how large the changes are; reads every file whole.
        hashes: compute the hashes of the files; reads every file whole.

    Raises:
        FileError: if there is no such folder, or it holds no file that may be an adapter.
    """
    paths = adapter_files(folder)
    if not paths:
        raise FileError(f"there is no adapter in {folder}: no file ending in {', '.join(SUFFIXES)}.")
    looks = {str(path): _look(partial(inspect, path, model=model, norms=norms, hashes=hashes)) for path in paths}
    files = tuple(facts for facts in looks.values() if isinstance(facts, Facts))
    return FolderFacts(str(folder), files, {path: text for path, text in looks.items() if isinstance(text, str)})


def _look(at: Callable[[], Facts]) -> Facts | str:
    """Return the facts of one file, or why there are none: one bad file must not hide the others."""
    try:
        return at()
    except LoRAError as error:
        return str(error)


def adapter_files(folder: Path) -> list[Path]:
    """Return the files in a folder that may be adapters, or none if it is one adapter's own folder, or no folder."""
    folder = folder.expanduser()
    if not folder.is_dir() or any((folder / name).is_file() for name in PREFERRED):
        return []
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))
