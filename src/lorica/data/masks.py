"""Where in a picture the loss counts: masks from a folder or the alpha channel, at the size of latents."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from lorica.data.images import DEEP_MODES, View, fit, to_rgb
from lorica.data.items import SUFFIXES
from lorica.errors import ConfigError, DataError

MASK_FOLDER = "mask"
BLACK = (0, 0, 0, 255)


def find_mask(picture: Path) -> Path | None:
    """Return the mask of a picture: the file of the same name in ``mask/`` beside it, whatever its suffix.

    Raises:
        DataError: if there are two.
    """
    folder = picture.parent / MASK_FOLDER
    if not folder.is_dir():
        return None
    named = (path for path in folder.iterdir() if path.stem == picture.stem and path.suffix.lower() in SUFFIXES)
    found = sorted(named)
    if len(found) > 1:
        raise DataError(f"{picture} has two masks, {found[0]} and {found[1]}; remove one of them.")
    return found[0] if found else None


def is_mask(path: Path, folder: Path) -> bool:
    """Tell whether a file below ``folder`` lies in a folder of masks, and so is no picture to learn from."""
    return MASK_FOLDER in path.relative_to(folder).parts[:-1]


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


def alpha_mask(content: bytes, path: Path) -> Image.Image | None:
    """Return the alpha channel of a picture as a mask, upright, or None if nothing in it is transparent.

    Raises:
        DataError: if the bytes are not a whole picture.
    """
    opened = _open(content, path)
    return opened.convert("RGBA").getchannel("A") if opened.has_transparency_data else None


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


def _open(content: bytes, path: Path) -> Image.Image:
    """Return a decoded picture, upright."""
    try:
        with Image.open(BytesIO(content)) as opened:
            return ImageOps.exif_transpose(opened)
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not a picture that can be read; remove it or save it anew.") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is broken, cut short or too large ({error}); remove it or save it anew.") from error
