"""Files that are written whole or not at all, whatever happens meanwhile: an error, a kill, a power cut."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lorica.errors import FileError

PART = ".part"  # the ending of a file that is being written, which begins with a dot


@contextmanager
def atomic_write(path: Path, *, sync: bool = True, suffix: str = PART) -> Iterator[Path]:
    """Path of a new file beside ``path``, which takes its place when the block ends and is deleted if it raises.

    Folders that are missing are made.

    Args:
        path: the file that is written or replaced.
        sync: wait until the content and the name are on the disk, and last through a power cut.
        suffix: the ending of the new file's name.

    Raises:
        FileError: if the file cannot be written, also for an OSError of the block; the old one stays as it is.
    """
    waiting = path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield waiting
        if sync:
            _sync(waiting)
        waiting.replace(path)
        if sync:
            sync_folder(path.parent)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}. Nothing was changed there.") from error
    finally:
        with suppress(OSError):
            waiting.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows syncs only what may be written
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
