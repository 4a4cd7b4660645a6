"""Cache of tensors on disk: computed once, keyed by content, verified when they are read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, TypeVar, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lorica.atomic import PART, atomic_write
from lorica.errors import FileError
from lorica.printing import expanded

Tensors = Mapping[str, Tensor]
T = TypeVar("T")
SUFFIX = ".safetensors"


def cache_folder() -> Path:
    """Folder of cached latents and text states: ``$LORICA_CACHE``, one in the user's cache, or a temporary one."""
    if own := os.environ.get("LORICA_CACHE"):
        return expanded(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "lorica"
    try:
        return Path.home() / ".cache" / "lorica"
    except RuntimeError:  # no HOME, and a user without an entry, as in containers
        return Path(tempfile.gettempdir()) / f"lorica-cache-{os.getuid()}"


def key_of(*parts: object) -> str:
    """Key of a result that is computed from ``parts``: texts, numbers and digests, told apart by their type."""
    return blake2b(repr(parts).encode(), digest_size=20).hexdigest()


def digest_of_bytes(content: bytes) -> str:
    """Digest of a file's content."""
    return blake2b(content, digest_size=20).hexdigest()


def digest_of_tensors(tensors: Tensors, head: int | None = None) -> str:
    """Digest of named tensors: names, types, shapes and every byte, or the first ``head`` bytes of each."""
    digest = blake2b(digest_size=20)
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8)[:head].cpu().numpy().data)
    return digest.hexdigest()


class Cache:
    """Named tensors by key, one file each, shared by all runs of the user.

    A file that was cut short or changed is computed anew. If the folder cannot be written, everything is computed and
    ``trouble`` says why.

    Args:
        folder: the folder of the files; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.trouble: str | None = None

    def get(self, key: str, compute: Callable[[], Tensors]) -> dict[str, Tensor]:
        """Tensors of ``key``, computed and kept if they are not there."""
        kept = self.look_up(key)
        return self.keep(key, compute()) if kept is None else kept

    def look_up(self, key: str) -> dict[str, Tensor] | None:
        """Tensors of ``key``, or None if they are not there or not as they were written."""
        if self.folder is None or (found := _read(path := _path(self.folder, key))) is None:
            return None
        with suppress(OSError):  # a cache of another user
            os.utime(path)  # ``shrink`` deletes what was used the longest ago
        return found

    def keep(self, key: str, tensors: Tensors) -> dict[str, Tensor]:
        """Write tensors, whole or not at all, and return them as a later ``look_up`` would."""
        made = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        if self.folder is None:
            return made
        try:
            with atomic_write(
                _path(self.folder, key), sync=False
            ) as waiting:  # the digest finds what a power cut breaks
                save_file(made, waiting, metadata={"digest": digest_of_tensors(made)})
        except (OSError, SafetensorError) as error:
            self.trouble = f"the cache folder {self.folder} cannot be written ({error.__cause__ or error})"
        return made

    def sequence(self, keys: Sequence[str], tensors: Sequence[Tensors], build: Callable[..., T]) -> Sequence[T]:
        """Values of tensors that were just kept, or found, under ``keys``; read from their files each time.

        Without a folder, or where it cannot be written, they are held in memory.

        Args:
            keys: the keys.
            tensors: the tensors of each.
            build: made into a value by their names.
        """
        if self.folder is None or not all(_path(self.folder, key).is_file() for key in keys):
            return tuple(build(**found) for found in tensors)
        return CachedSequence(self, tuple(keys), build)

    def contents(self) -> CacheContents:
        """Number of files, bytes and time of the last use; without a folder nothing."""
        return CacheContents(tuple(_files_of(self.folder))) if self.folder is not None else CacheContents(())

    def shrink(self, most: int) -> CacheContents:
        """Delete the files that were used the longest ago until the others have ``most`` bytes; those that went.

        Raises:
            FileError: if one cannot be deleted.
        """
        found = self.contents()
        left, gone = found.size, list[CachedFile]()
        for file in sorted(found.files, key=lambda one: one.used):
            if left <= most:
                break
            try:
                file.path.unlink(missing_ok=True)
            except OSError as error:
                raise FileError(f"cannot delete {file.path}: {error.strerror}.") from error
            left -= file.size
            gone.append(file)
        return CacheContents(tuple(gone))


class CachedSequence(Sequence[T]):
    """Values that lie in files of a cache and are read when they are asked for, so that none is held.

    Args:
        cache: the cache.
        keys: one for each value.
        build: makes a value of tensors by their names.
    """

    def __init__(self, cache: Cache, keys: tuple[str, ...], build: Callable[..., T]) -> None:
        self.cache, self.keys, self.build = cache, keys, build

    def __len__(self) -> int:
        """Number of values."""
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        """The value, or the values, read now.

        Raises:
            FileError: if a file was deleted or changed meanwhile.
        """
        if isinstance(index, slice):
            return CachedSequence(self.cache, self.keys[index], self.build)
        tensors = self.cache.look_up(self.keys[index])
        if tensors is None:
            raise FileError(
                f"a file of the cache {self.cache.folder} was deleted or changed while a run needs it. Go on from the "
                "last checkpoint with --resume_from_checkpoint latest: what is missing is encoded anew."
            )
        return self.build(**tensors)


class CachedFile(NamedTuple):
    """One file of a cache: its size in bytes, and when it was last written or found by a run."""

    path: Path
    size: int
    used: float


class CacheContents(NamedTuple):
    """Files of a cache."""

    files: tuple[CachedFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def _files_of(folder: Path) -> Iterator[CachedFile]:
    """Files of a cache, and remains of writing that was killed."""
    for path in folder.glob("??/*"):
        if path.suffix in (SUFFIX, PART):
            with suppress(OSError):  # another run deletes too
                facts = path.stat()
                yield CachedFile(path, facts.st_size, facts.st_mtime)


def _path(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}{SUFFIX}"


def _read(path: Path) -> dict[str, Tensor] | None:
    """Tensors of a file, or None if it is missing or not as it was written."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            written = (file.metadata() or {}).get("digest")
    except (OSError, SafetensorError):
        return None
    return tensors if written == digest_of_tensors(tensors) else None
