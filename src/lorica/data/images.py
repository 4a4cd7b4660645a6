"""Read a picture file and cut it to size: plain functions of the file and of where to cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lorica.errors import DataError

WHITE = (255, 255, 255, 255)
LYING = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
DEEP_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})


class View(NamedTuple):
    """How a picture is seen: where the cut lies, 0 (left, top) to 1 (right, bottom), and whether it is mirrored."""

    left: float = 0.5
    top: float = 0.5
    flip: bool = False


def load_picture(content: bytes, path: Path) -> Image.Image:
    """Return a picture as RGB: upright as its EXIF says, transparent parts white, any other mode converted.

    Args:
        content: the bytes of the file.
        path: its name, for the message.

    Raises:
        DataError: if the bytes are not a whole picture.
    """
    with _named(path), Image.open(BytesIO(content)) as opened:
        return to_rgb(ImageOps.exif_transpose(opened))


def picture_size(content: bytes, path: Path) -> tuple[int, int]:
    """Return the width and height that ``load_picture`` would give, from the header alone.

    Raises:
        DataError: if the bytes are not a picture.
    """
    with _named(path), Image.open(BytesIO(content)) as opened:
        width, height = opened.size
        lying = opened.getexif().get(ExifTags.Base.Orientation, 1) in LYING
        return (height, width) if lying else (width, height)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say which file a fault is in."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not a picture that can be read; remove it or save it anew.") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{path} is broken or cut short ({error}); remove it or save it anew.") from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """Return the picture in mode RGB; 16-bit grey keeps its upper 8 bits."""
    if picture.mode in DEEP_MODES:
        values = np.asarray(picture).astype(np.int64) // 257
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, WHITE), layered).convert("RGB")
    return picture.convert("RGB")


def fit(picture: Image.Image, height: int, width: int, view: View, interpolation: str = "lanczos") -> Image.Image:
    """Return the picture resized to cover ``height`` x ``width``, cut where ``view`` says, and mirrored if so."""
    covering = covering_size(picture.size, (width, height))
    resized = picture.resize(covering, Image.Resampling[interpolation.upper()])
    left = round(view.left * (covering[0] - width))
    top = round(view.top * (covering[1] - height))
    cut = resized.crop((left, top, left + width, top + height))
    return ImageOps.mirror(cut) if view.flip else cut


def to_tensor(picture: Image.Image) -> Tensor:
    """Return an RGB picture as float32 ``(3, h, w)`` in -1 to 1."""
    values = np.asarray(picture, dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def fits_exactly(size: tuple[int, int], height: int, width: int) -> bool:
    """Tell whether a picture of ``size`` (width, height) covers the frame with nothing to cut off."""
    return covering_size(size, (width, height)) == (width, height)


def covering_size(size: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest size of the shape of ``size`` that covers the frame; all are (width, height)."""
    scale = max(frame[0] / size[0], frame[1] / size[1])
    return max(frame[0], round(size[0] * scale)), max(frame[1], round(size[1] * scale))
