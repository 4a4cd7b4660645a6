"""Weights as they were before anything was fused into them: kept where they lie, or found again in the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lorica.errors import FileError, ModelError
from lorica.models.clip import spellings
from lorica.runtime.model.layers import Place

Backup = Literal["cpu", "reload", "none"]
BACKUPS = ("cpu", "reload", "none")


@dataclass(frozen=True, slots=True)
class StoredOriginal:
    """A weight or bias in the checkpoint that a component was loaded from."""

    file: Path
    key: str

    def read(self, like: Tensor) -> Tensor:
        """The numbers, in the precision and on the device of ``like``.

        Raises:
            FileError: if the file is no longer there, or no longer holds them.
        """
        try:
            with safe_open(str(self.file), framework="pt") as file:
                return cast("Tensor", file.get_tensor(self.key)).to(like.device, like.dtype)
        except (OSError, SafetensorError) as error:
            raise FileError(f"cannot read {self.key} again from {self.file}: {error}") from error


Originals = dict[str, "Tensor | StoredOriginal"]  # a layer's weight, and perhaps its bias


def check_readable(originals: list[StoredOriginal]) -> None:
    """Raise unless the checkpoints still hold what would be read from them, before anything is written.

    Raises:
        FileError: if one does not.
    """
    for path in {one.file for one in originals}:
        keys = _keys_of(path)
        gone = [one.key for one in originals if one.file == path and one.key not in keys]
        if gone:
            raise FileError(
                f"cannot read {gone[0]} again from {path}, which no longer holds it, so it cannot be unfused. "
                "Put the checkpoint back as it was."
            )


def _keys_of(path: Path) -> set[str]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return set(cast("list[str]", file.keys()))
    except (OSError, SafetensorError):
        return set()


def find_stored(component: nn.Module, places: Mapping[Place, tuple[str, ...]]) -> dict[Place, Originals]:
    """Where a component's checkpoint holds the weights at these places, each compared with the live one.

    Args:
        component: a model that ``from_pretrained`` loaded from a folder.
        places: the layers, and which of their tensors are wanted.

    Raises:
        ModelError: if it came from no folder, or a weight is not there exactly as it is now.
    """
    found: dict[Place, Originals] = {}
    with ExitStack() as stack:
        homes: dict[str, list[tuple[Path, Any]]] = {}
        for path in _files_of(component):
            file: Any = stack.enter_context(safe_open(str(path), framework="pt"))
            for key in file.keys():  # noqa: SIM118  # not a mapping
                homes.setdefault(key, []).append((path, file))
        for (name, path), leaves in places.items():
            layer = component.get_submodule(path)
            found[name, path] = {
                leaf: _home(f"{path}.{leaf}", cast("nn.Parameter", getattr(layer, leaf)).data, homes) for leaf in leaves
            }
    return found


def _home(key: str, live: Tensor, homes: Mapping[str, list[tuple[Path, Any]]]) -> StoredOriginal:
    """The stored tensor that is the live one; several components in one folder may have the same names."""
    known = [(path, file, spelling) for spelling in spellings(key) for path, file in homes.get(spelling, [])]
    for path, file, spelling in known:
        stored = cast("Tensor", file.get_tensor(spelling)).to(live.device, live.dtype)
        if stored.shape == live.shape and torch.equal(stored, live):
            return StoredOriginal(path, spelling)
    where = f"is not what {known[0][0]} holds (was the model changed after loading?)" if known else "is in no file"
    raise ModelError(f"{key} {where}, so it could not be read again from there. Fuse with backup='cpu'.")


def _files_of(component: nn.Module) -> list[Path]:
    """The weight files of the folder that a component was loaded from, or of that folder's own folders."""
    config: Any = getattr(component, "config", None)
    name = getattr(config, "_name_or_path", None) or getattr(component, "name_or_path", None)
    for pattern in ("*.safetensors", "*/*.safetensors"):
        found = sorted(Path(name).glob(pattern)) if name else []
        if found:
            return found
    raise ModelError(
        f"this {type(component).__name__} was not loaded from a folder of safetensors files"
        f"{f' (but from {name})' if name else ''}, so backup='reload' has nothing to read again. Fuse with "
        "backup='cpu'."
    )
