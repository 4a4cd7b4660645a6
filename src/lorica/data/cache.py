"""Cache of tensors on disk: computed once, keyed by content, verified when they are read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lorica.atomic import atomic_write

Tensors = Mapping[str, Tensor]


def cache_folder() -> Path:
    """Folder of cached latents and text states: ``$LORICA_CACHE``, one in the user's cache, or a temporary one."""
    if own := os.environ.get("LORICA_CACHE"):
        return Path(os.path.expanduser(own))  # noqa: PTH111  # leaves what it cannot expand
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
        return None if self.folder is None else _read(_path(self.folder, key))

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


def _path(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.safetensors"


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
