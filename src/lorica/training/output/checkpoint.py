"""Checkpoints that are whole or absent: written aside, hashed, synced to disk, then renamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from safetensors.torch import load_file
from torch import Tensor

from lorica.atomic import PART, sync_folder
from lorica.errors import FileError, StateError
from lorica.formats.storage.files import save, save_text
from lorica.run_files import CHECKPOINT, MANIFEST, STATE

MOST_NAMED = 3  # files in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a run after ``step`` steps.

    Args:
        step: number of steps that were done.
        tensors: the factors and the state of the optimizer.
        facts: settings and data that a run which resumes from here must have in common with it.
        scaler: the state of the loss scaler of fp16; empty otherwise.
    """

    step: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, object]
    scaler: Mapping[str, Any] = field(default_factory=dict[str, Any])


def write_checkpoint(folder: Path, checkpoint: Checkpoint, extra: Callable[[Path], object] | None = None) -> Path:
    """Write ``checkpoint-STEP`` into a folder and return its path; a kill at any moment leaves it whole or absent.

    Args:
        folder: the output folder of the run.
        checkpoint: the state of the run.
        extra: writes further files into the folder of the checkpoint, such as the adapter file.

    Raises:
        FileError: if the folder cannot be written or the disk is full; earlier checkpoints stay.
    """
    final = folder / f"{CHECKPOINT}{checkpoint.step}"
    waiting = folder / f".{final.name}.part"
    try:
        shutil.rmtree(waiting, ignore_errors=True)
        waiting.mkdir(parents=True)
        save(checkpoint.tensors, waiting / STATE, {})
        if extra is not None:
            extra(waiting)
        _write_manifest(waiting, checkpoint)
        _replace_folder(waiting, final)
    except OSError as error:
        shutil.rmtree(waiting, ignore_errors=True)
        why = str(error).removesuffix(".")
        raise FileError(f"cannot write {final}: {why}. Checkpoints written before are intact.") from error
    return final


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and verify every file of it by its hash.

    Raises:
        FileError: if it is missing, cut short or changed, naming the file.
    """
    manifest = _read_manifest(path / MANIFEST)
    for name, digest in cast("dict[str, str]", manifest["files"]).items():
        if not (path / name).is_file():
            raise FileError(f"{path / name} is missing.")
        if _digest(path / name) != digest:
            raise FileError(f"{path / name} is cut short or was changed: its hash is not the one written with it.")
    return Checkpoint(
        step=int(manifest["step"]),
        tensors=load_file(path / STATE),
        facts=manifest["facts"],
        scaler=manifest["scaler"],
    )


def find_checkpoint(folder: Path, wanted: str, say: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint to resume from: ``latest`` in a folder, or the one at a path.

    A broken one is passed over with a message, and the one before it is used. None if there is none at all.

    Raises:
        FileError: if all are broken, or the path is not that of an intact checkpoint.
    """
    if wanted != "latest":
        return read_checkpoint(_locate(folder, wanted))
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        if (found := _read_or_complain(path, say)) is not None:
            return found
    if paths:
        raise FileError(f"none of the {len(paths)} checkpoints in {folder} is intact; start anew in another folder.")
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """Paths of the checkpoints of a folder, oldest first."""
    found = [
        path
        for path in folder.glob(f"{CHECKPOINT}*")
        if path.name.removeprefix(CHECKPOINT).isdecimal() and path.is_dir()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix(CHECKPOINT)))


def prune_checkpoints(folder: Path, limit: int | None) -> None:
    """Delete the oldest checkpoints beyond ``limit``."""
    if limit is not None:
        for path in list_checkpoints(folder)[:-limit]:
            _remove_folder(path)


def remove_checkpoints(folder: Path) -> None:
    """Delete all checkpoints of a folder."""
    for path in list_checkpoints(folder):
        _remove_folder(path)


def remove_remains(folder: Path) -> None:
    """Delete files and folders that a killed run was writing or deleting."""
    for path in (*folder.glob(f".{CHECKPOINT}*.part"), *folder.glob(f".{CHECKPOINT}*.old")):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.rglob(f".*{PART}"):
        path.unlink(missing_ok=True)


def check_facts(checkpoint: Checkpoint, facts: Mapping[str, object]) -> None:
    """Refuse to resume from a checkpoint of another run.

    Raises:
        StateError: naming each difference.
    """
    now = json.loads(json.dumps(facts))  # as the manifest spells them
    names = [*now, *(name for name in checkpoint.facts if name not in now)]
    changed = [name for name in names if not _same(checkpoint.facts.get(name), now.get(name))]
    if changed:
        differences = "; ".join(_difference(name, checkpoint.facts.get(name), now.get(name)) for name in changed)
        raise StateError(
            f"the checkpoint at step {checkpoint.step} is of another run: {differences}. "
            "Set them back, or start anew in another output_dir."
        )


def _read_or_complain(path: Path, say: Callable[[str], None]) -> Checkpoint | None:
    try:
        return read_checkpoint(path)
    except FileError as error:
        say(f"{path.name} is broken and passed over: {error}")
        return None


def _same(before: object, now: object) -> bool:
    """Whether two facts agree; files may have other names as long as their contents have one digest."""
    if isinstance(before, dict) and isinstance(now, dict) and "digest" in before and "digest" in now:
        return bool(before["digest"] == now["digest"])
    return before == now


def _difference(name: str, before: object, now: object) -> str:
    if isinstance(before, dict) and isinstance(now, dict) and "files" in before and "files" in now:
        return f"{name}: {_differing_files(before['files'], now['files'])}"
    if isinstance(before, list) and isinstance(now, list):
        old, new = cast("list[object]", before), cast("list[object]", now)
        gone, came = [entry for entry in old if entry not in new], [entry for entry in new if entry not in old]
        return f"{name}: {len(gone)} gone ({_first(gone)}), {len(came)} new ({_first(came)})"
    return f"{name} was {before!r}, is {now!r}"


def _differing_files(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Which files are gone, new, or have another picture, mask or caption."""
    sorts = {
        "gone": [name for name in before if name not in now],
        "new": [name for name in now if name not in before],
        "changed": [name for name, digest in now.items() if before.get(name, digest) != digest],
    }
    named = [f"{len(names)} {sort} ({_some(names)})" for sort, names in sorts.items() if names]
    return ", ".join(named) or "the same, in another order"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")


def _first(entries: list[object]) -> str:
    return f"{entries[0]}, ..." if len(entries) > 1 else "".join(map(str, entries)) or "none"


def _locate(folder: Path, wanted: str) -> Path:
    """The folder of a checkpoint by its path or, as in the diffusers scripts, by its name in the output folder."""
    for path in (Path(wanted), folder / wanted):
        if path.is_dir():
            return path
    known = ", ".join(path.name for path in list_checkpoints(folder)) or "none"
    raise FileError(f"there is no checkpoint {wanted}; {folder} holds: {known}.")


def _write_manifest(folder: Path, checkpoint: Checkpoint) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    content: dict[str, object] = {
        "step": checkpoint.step,
        "facts": dict(checkpoint.facts),
        "scaler": dict(checkpoint.scaler),
        "files": {path.name: _digest(path) for path in files},
    }
    save_text(json.dumps({**content, "digest": _digest_of(content)}, indent=1), folder / MANIFEST)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        written = manifest.pop("digest")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise FileError(f"{path} cannot be read: {error}.") from error
    if _digest_of(manifest) != written:
        raise FileError(f"{path} was changed: its hash is not the one written with it.")
    return manifest


def _digest_of(content: Mapping[str, object]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _replace_folder(waiting: Path, final: Path) -> None:
    """Rename ``waiting`` to ``final``; a folder of that name is deleted only after it."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    waiting.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _remove_folder(path: Path) -> None:
    """Delete a checkpoint, renamed first, so that half of it is not taken for a broken one."""
    doomed = path.with_name(f".{path.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
