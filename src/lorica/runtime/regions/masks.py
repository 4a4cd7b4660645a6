"""Masks that say where on a picture an adapter acts: read from tensors, pictures and files, and shrunk to a grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from lorica.errors import ConfigError, FileError, ShapeError

Mask = Tensor | Image.Image | str | Path


def mask_of(mask: Mask, name: str) -> Tensor:
    """Return a mask as ``(H, W)`` float32 in ``[0, 1]``.

    Args:
        mask: such a tensor, or one of booleans; or a picture or its file, white where the adapter acts.
        name: the adapter's, for messages.

    Raises:
        FileError: if a file cannot be read as a picture.
        ShapeError: if a tensor has other axes.
        ConfigError: if a value is outside of 0 to 1, or it is no mask at all.
    """
    if isinstance(mask, (str, Path)):
        mask = _opened(Path(mask).expanduser(), name)
    if isinstance(mask, Image.Image):
        return torch.from_numpy(np.array(mask.convert("L"), dtype=np.float32) / 255)
    if not isinstance(mask, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        raise ConfigError(f"the mask of {name!r} must be a tensor, a picture or a file, got a {type(mask).__name__}.")
    if mask.ndim != 2 or not mask.numel():
        raise ShapeError(f"the mask of {name!r} has the shape {tuple(mask.shape)}; expected (height, width).")
    values = mask.detach().float().cpu()
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ConfigError(
            f"the mask of {name!r} must lie between 0 (off) and 1 (the whole strength), got values from "
            f"{values.min().item():g} to {values.max().item():g}."
        )
    return values.clone()


def _opened(path: Path, name: str) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("L")
    except (OSError, UnidentifiedImageError) as error:
        raise FileError(f"the mask of {name!r} cannot be read: {path}: {error}") from error


def shrunk(mask: Tensor, rows: int, columns: int) -> Tensor:
    """Return the mean of a mask over each cell of a grid, ``(rows, columns)``."""
    return F.adaptive_avg_pool2d(mask[None, None], (rows, columns))[0, 0]
