"""Where in a picture the loss counts: masks from a folder or the alpha channel, at the size of latents."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from lorica.data.images import DEEP_MODES, View, fit, to_rgb
from lorica.errors import ConfigError, DataError

BLACK = (0, 0, 0, 255)


class MaskSource(NamedTuple):
    """Where the mask of a picture comes from: a file, or the alpha channel of the picture's own file."""

    content: bytes
    path: Path
    is_alpha: bool


def mask_source(path: Path, content: bytes, mask: Path | None) -> MaskSource | None:
    """Return where the mask of a picture comes from: its mask file, else its alpha channel; None without either.

    Args:
        path: the picture, for messages.
        content: the bytes of the picture.
        mask: its mask file.

    Raises:
        DataError: if a file cannot be read.
    """
    if mask is not None:
        try:
            return MaskSource(mask.read_bytes(), mask, is_alpha=False)
        except OSError as error:
            raise DataError(f"cannot read the mask {mask}: {error}.") from error
    try:
        with Image.open(BytesIO(content)) as opened:
            return MaskSource(content, path, is_alpha=True) if opened.has_transparency_data else None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a picture that can be read ({error}); remove it or save it anew.") from error


def open_mask(source: MaskSource, size: tuple[int, int]) -> Image.Image:
    """Return a mask as grey, as large as its picture.

    Raises:
        DataError: if it cannot be read or has another shape than the picture.
    """
    if not source.is_alpha:
        return load_mask(source.content, source.path, size)
    return _open(source.content, source.path).convert("RGBA").getchannel("A")


def load_mask(content: bytes, path: Path, size: tuple[int, int]) -> Image.Image:
    """Return a mask file as grey: white counts in full, black and transparent parts as little as the run says.

    Args:
        content: the bytes of the file.
        path: its name, for messages.
        size: width and height of the picture; a mask of the same shape is resized to it.

    Raises:
        DataError: if the bytes are not a whole picture, or its shape is not that of the picture.
    """
    opened = _open(content, path)
    if opened.mode in DEEP_MODES or not opened.has_transparency_data:
        mask = to_rgb(opened).convert("L")
    else:
        layered = opened.convert("RGBA")
        mask = Image.alpha_composite(Image.new("RGBA", layered.size, BLACK), layered).convert("L")
    if abs(mask.height * size[0] / mask.width - size[1]) > 1:
        raise DataError(
            f"the mask {path} has {mask.width}x{mask.height} pixels but its picture {size[0]}x{size[1]}: "
            "make it the same shape."
        )
    return mask if mask.size == size else mask.resize(size, Image.Resampling.BOX)


def latent_mask(mask: Image.Image, height: int, width: int, view: View, factor: int) -> Tensor:
    """Return a mask as the latents of one view see it, ``(1, height / factor, width / factor)``, 0 to 1.

    It is resized, cut and mirrored as the picture is; then each cell is the mean of its ``factor * factor`` pixels.

    Args:
        mask: grey, as large as the picture.
        height: that of the frame in pixels, a multiple of ``factor``.
        width: likewise.
        view: how the picture is seen.
        factor: pixels a side of one cell of the latents.
    """
    cut = fit(mask, height, width, view, "box")
    values = torch.from_numpy(np.asarray(cut, dtype=np.float32) / 255)
    return F.avg_pool2d(values[None], factor)


def area_weights(mask: Tensor, unmasked: float) -> Tensor:
    """Return ``unmasked + (1 - unmasked) * mask``: 1 where the mask is white, ``unmasked`` where it is black.

    Raises:
        ConfigError: if ``unmasked`` is not within 0 to 1.
    """
    if not 0 <= unmasked <= 1:
        raise ConfigError(f"the weight of the unmasked area must be within 0 to 1, got {unmasked}.")
    return unmasked + (1 - unmasked) * mask


def stack_areas(masks: Sequence[Tensor | None], unmasked: float) -> Tensor | None:
    """Return how much each place of the samples of a batch counts, ``(b, 1, h, w)``; None if all count alike.

    Args:
        masks: that of each sample, ``(1, h, w)``; a sample without one counts in full everywhere.
        unmasked: what a place counts where its mask is black.
    """
    known = next((mask for mask in masks if mask is not None), None)
    if known is None:
        return None
    return torch.stack([torch.ones_like(known) if mask is None else area_weights(mask, unmasked) for mask in masks])


def _open(content: bytes, path: Path) -> Image.Image:
    """Return a decoded picture, upright."""
    try:
        with Image.open(BytesIO(content)) as opened:
            return ImageOps.exif_transpose(opened)
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not a picture that can be read; remove it or save it anew.") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is broken, cut short or too large ({error}); remove it or save it anew.") from error
