"""The output folder of a run: checked before anything is computed, and held by one run at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from lorica.errors import FileError, StateError
from lorica.run_files import PREVIEWS, RUN
from lorica.training.output.checkpoint import list_checkpoints, remove_checkpoints

LOCK = ".lock"
PROBE = 64 * 1024  # bytes that must fit: run.toml, the loss curve and the model card


def prepare_folder(folder: Path, *, resuming: bool, overwrite: bool) -> None:
    """Make sure that the folder exists, can be written, and holds no checkpoints of another run.

    Raises:
        FileError: if it cannot be written.
        StateError: if it holds checkpoints and the run neither resumes nor overwrites.
    """
    probe = folder / f".probe-{uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(PROBE))
        probe.unlink()
    except OSError as error:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
        raise FileError(f"the output folder {folder} cannot be written: {error}. Choose another output_dir.") from error
    if list_checkpoints(folder) and not resuming and not overwrite:
        raise StateError(
            f"{folder} holds the checkpoints of an earlier run. Go on with it by --resume_from_checkpoint latest, "
            "delete them by --overwrite_output_dir, or choose another --output_dir."
        )


def clear_folder(folder: Path) -> None:
    """Delete the checkpoints and previews of an earlier run, when nothing can be wrong with the new one any more."""
    remove_checkpoints(folder)
    shutil.rmtree(folder / PREVIEWS, ignore_errors=True)


def check_room(folder: Path, needed: int) -> None:
    """Make sure that a checkpoint fits before anything is trained.

    Args:
        folder: the output folder.
        needed: size of a checkpoint in bytes.

    Raises:
        FileError: if the disk has less room.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FileError(
            f"the disk of {folder} has {free:,} bytes left and a checkpoint takes {needed:,}: "
            "make room, or choose another output_dir."
        )


@contextmanager
def removed_if_refused(folder: Path) -> Iterator[None]:
    """Remove an output folder that the ``with`` block made and left without a run, for a mistake in the settings."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if made and not (folder / RUN).exists():
            shutil.rmtree(folder, ignore_errors=True)
            for path in made[1:]:
                with suppress(OSError):  # not empty: something else was put there
                    path.rmdir()
        raise


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Lock an output folder against other runs; the system releases the lock if this process dies.

    Raises:
        StateError: if another run holds it.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StateError(f"{folder} is in use by another run; wait for it or choose another output_dir.") from None
    try:
        yield
    finally:
        lock.release()
