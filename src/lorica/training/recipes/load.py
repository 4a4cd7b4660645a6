"""Load a base model by name: the bundled one, a folder, a single file, or one from the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from packaging.version import Version

from lorica.errors import FileError, ModelError
from lorica.models import bundled

INDEX = "model_index.json"
PRECISION = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"  # the older name warns
SINGLE_FILES = (".safetensors", ".ckpt")


def load_pipeline(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: Path | None = None,
) -> Any:
    """Return the diffusers pipeline of a base model.

    Args:
        name_or_path: ``bundled``, a folder in diffusers' format, a ``.safetensors`` file, or a Hub id.
        dtype: the precision of the weights.
        revision: branch, tag or commit on the Hub.
        variant: file variant, such as ``fp16``.
        cache_dir: where files from the Hub are kept.

    Raises:
        FileError: if there is no such model or it cannot be fetched.
        ModelError: if it is there but cannot be loaded.
    """
    source = _locate(str(name_or_path))
    options: dict[str, Any] = {PRECISION: dtype, "revision": revision, "cache_dir": cache_dir}
    try:
        if source.endswith(SINGLE_FILES):
            return StableDiffusionPipeline.from_single_file(source, **options)
        return DiffusionPipeline.from_pretrained(source, variant=variant, **options)
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, ImportError) as error:
        if Path(source).exists():
            raise ModelError(f"cannot load the base model {name_or_path}: {error}") from error
        raise FileError(
            f"there is no base model {name_or_path}: it is no folder or file here, and the Hub says: "
            f"{_first_line(error)} Check the spelling, the connection, and for a closed model: hf auth login."
        ) from error


def _locate(name: str) -> str:
    """Return what diffusers should load.

    Raises:
        FileError: if a path is named that is not a model.
    """
    path = bundled.FOLDER if name == bundled.NAME else Path(name).expanduser()
    if name == bundled.NAME and not (path / INDEX).is_file():
        raise FileError(f"the bundled base model is not in this installation ({path}); install the package anew.")
    if path.is_dir() and not (path / INDEX).is_file():
        raise FileError(f"{path} is not a model in diffusers' format: it holds no {INDEX}.")
    if not path.exists() and (name.endswith(SINGLE_FILES) or name.startswith(("/", ".", "~")) or name.count("/") > 1):
        raise FileError(f"there is no base model at {path}.")
    return str(path) if path.exists() else name


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
