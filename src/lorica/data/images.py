"""One picture: decode a file, choose a view of it, cut that to size. Plain functions of the file and of the view."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """View of a picture: the place of the cut, 0 (left, top) to 1 (right, bottom), and whether it is mirrored."""

    left: float = 0.5
    top: float = 0.5
    flip: bool = False


def open_picture(content: bytes, path: Path) -> Image.Image:
    """Decoded picture, upright as its EXIF data says, in the mode of the file.

    Args:
        content: the bytes of the file.
        path: its name, for the message.

    Raises:
        DataError: if the bytes are not a whole picture.
    """
    with _named(path), Image.open(BytesIO(content)) as opened:
        return ImageOps.exif_transpose(opened)


def load_picture(content: bytes, path: Path) -> Image.Image:
    """Decoded picture as RGB: upright, transparent parts white, any other mode converted.

    Raises:
        DataError: if the bytes are not a whole picture.
    """
    with _named(path):  # conversion may fail as well, for modes that Pillow cannot convert
        return to_rgb(open_picture(content, path))


def picture_size(content: bytes, path: Path) -> tuple[int, int]:
    """Width and height of the upright picture, from the header alone.

    Raises:
        DataError: if the bytes are not a picture.
    """
    with _named(path), Image.open(BytesIO(content)) as opened:
        width, height = opened.size
        lying = opened.getexif().get(ExifTags.Base.Orientation, 1) in LYING
        return (height, width) if lying else (width, height)


def has_alpha(content: bytes, path: Path) -> bool:
    """Whether parts of a picture may be transparent, from the header alone.

    Raises:
        DataError: if the bytes are not a picture.
    """
    with _named(path), Image.open(BytesIO(content)) as opened:
        return opened.has_transparency_data


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn the errors of Pillow into one that names the file."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not a picture that can be read; remove it or save it anew.") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large: {error}") from error
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{path} is broken or cut short ({error}); remove it or save it anew.") from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """Picture in mode RGB; 16-bit grey keeps its upper 8 bits."""
    if picture.mode in DEEP_MODES:  # Pillow would clip these to 255 instead of scaling them
        values = np.asarray(picture).astype(np.int64) // 257
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, WHITE), layered).convert("RGB")
    return picture.convert("RGB")


def views_of(digest: str, random: Callable[[str], torch.Generator], *, crops: int, flip: bool) -> tuple[View, ...]:
    """Views of one picture: ``crops`` cuts (one means the centre), each also mirrored with ``flip``.

    Random cuts depend on the run's seed and the picture's ``digest`` alone, so that they can be cached.

    Args:
        digest: the digest of the picture's bytes.
        random: purpose to generator.
        crops: number of cuts.
        flip: whether each cut is also mirrored.
    """
    cuts = [View()] if crops == 1 else _random_cuts(crops, random(f"cuts/{digest}"))
    return tuple(cut._replace(flip=mirrored) for cut in cuts for mirrored in ((False, True) if flip else (False,)))


def choose_view(count: int, generator: torch.Generator) -> int:
    """Draw the number of one of ``count`` views."""
    return int(torch.randint(count, (), generator=generator)) if count > 1 else 0


def _random_cuts(count: int, generator: torch.Generator) -> list[View]:
    return [View(left, top) for left, top in torch.rand(count, 2, generator=generator).tolist()]


def fit(picture: Image.Image, height: int, width: int, view: View, interpolation: str = "lanczos") -> Image.Image:
    """Picture resized to cover ``height`` x ``width``, cut to it where ``view`` says, and mirrored if so."""
    covering = covering_size(picture.size, (width, height))
    resized = picture.resize(covering, Image.Resampling[interpolation.upper()])
    left = round(view.left * (covering[0] - width))
    top = round(view.top * (covering[1] - height))
    cut = resized.crop((left, top, left + width, top + height))
    return ImageOps.mirror(cut) if view.flip else cut


def to_tensor(picture: Image.Image) -> Tensor:
    """RGB picture as float32 ``(3, h, w)`` in -1 to 1."""
    values = np.asarray(picture, dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def fits_exactly(size: tuple[int, int], height: int, width: int) -> bool:
    """Whether a picture of ``size`` (width, height) covers the frame with nothing to cut off."""
    return covering_size(size, (width, height)) == (width, height)


def covering_size(size: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """Smallest size with the aspect of ``size`` that covers the frame; all are (width, height)."""
    scale = max(frame[0] / size[0], frame[1] / size[1])
    return max(frame[0], round(size[0] * scale)), max(frame[1], round(size[1] * scale))
