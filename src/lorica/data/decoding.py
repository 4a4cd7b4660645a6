"""Picture files to decoded pictures: every way in which one can be broken ends in one error that names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lorica.data.colour import to_rgb
from lorica.data.png import without_texts
from lorica.errors import DataError

LYING = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
# Formats of Pillow that are no pictures of pixels: they start another program, or only recognise the file.
NOT_PIXELS = frozenset({"EPS", "WMF", "EMF", "BUFR", "GRIB", "HDF5", "MPEG", "PDF"})
# Formats whose header gives the size of the decoded picture; the others may hold several, and are decoded to know it.
SIZE_IN_HEADER = frozenset({"AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP"})
EXTRA = "pictures"
EXTRA_SUFFIXES = frozenset({".heic", ".heif", ".jxl"})  # read with the packages of the extra


@cache
def formats() -> tuple[str, ...]:
    """Formats that can be read, by Pillow and by the packages of the extra ``pictures`` where they are installed."""
    Image.init()
    with suppress(ImportError):
        import pillow_heif  # type: ignore[reportMissingImports]

        pillow_heif.register_heif_opener()
    with suppress(ImportError):
        import pillow_jxl  # type: ignore  # noqa: F401  # registers itself
    return tuple(name for name in Image.OPEN if name not in NOT_PIXELS)


@cache
def suffixes() -> frozenset[str]:
    """Endings of files that are pictures, in lower case."""
    readable = set(formats())
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in readable)


def open_picture(content: bytes, path: Path, *, at_least: int | None = None) -> Image.Image:
    """Decoded picture, upright as its EXIF data says, in the mode of the file.

    Args:
        content: the bytes of the file.
        path: its name, for the message.
        at_least: a JPEG may be decoded at a half, fourth or eighth of its size, not below this many pixels a side.

    Raises:
        DataError: if the bytes are not a whole picture.
    """
    with named(path), opened(content) as picture:
        if at_least is not None and picture.format == "JPEG":
            picture.draft(None, (at_least, at_least))
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)  # a copy of 100 megapixels would be 400 MB
        return picture.copy() if getattr(picture, "is_animated", False) else picture


def load_picture(content: bytes, path: Path, *, at_least: int | None = None) -> Image.Image:
    """Decoded picture as sRGB: upright, transparent parts white, colours converted by the picture's own profile.

    Raises:
        DataError: if the bytes are not a whole picture, or its values have no known range.
    """
    with named(path):  # conversion may fail as well, for modes that Pillow cannot convert
        return to_rgb(open_picture(content, path, at_least=at_least))


def picture_size(content: bytes, path: Path) -> tuple[int, int]:
    """Width and height of the upright picture, from the header alone where that is sure.

    Raises:
        DataError: if the bytes are not a picture.
    """
    with named(path), opened(content) as picture:
        if picture.format not in SIZE_IN_HEADER:
            return open_picture(content, path).size
        width, height = _stored_size(picture)
        lying = picture.getexif().get(ExifTags.Base.Orientation, 1) in LYING
        return (height, width) if lying else (width, height)


def has_alpha(content: bytes, path: Path) -> bool:
    """Whether parts of a picture may be transparent, from the header alone.

    Raises:
        DataError: if the bytes are not a picture.
    """
    with named(path), opened(content) as picture:
        return picture.has_transparency_data


@contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """The header of a picture, with the profile of its colours; its pixels are decoded when they are asked for."""
    lean, profile = without_texts(content)
    picture = Image.open(BytesIO(lean), formats=formats())
    if profile is not None:
        picture.info["icc_profile"] = profile
    yield picture  # not closed: the pixels of some formats are read from it later


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into one error that names the file."""
    try:
        yield
    except DataError as error:
        raise error if str(error).startswith(str(path)) else DataError(f"{path} {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not a picture that can be read; remove it or save it anew.") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        most = f"{2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} million" if Image.MAX_IMAGE_PIXELS else "memory allows"
        raise DataError(
            f"{path} has more pixels than can be decoded safely, at most {most}: save a smaller copy, such as one of "
            "4096 pixels on the longer side (training needs no more), or raise PIL.Image.MAX_IMAGE_PIXELS."
        ) from error
    except Exception as error:  # decoders raise anything on damaged files: struct.error, KeyError, RuntimeError
        said = str(error) or type(error).__name__
        raise DataError(f"{path} is broken or cut short ({said[:200]}); remove it or save it anew.") from error


def _stored_size(picture: Any) -> tuple[int, int]:
    """Size as the pixels are stored; that of a TIFF in Pillow may be turned already."""
    if picture.format == "TIFF":
        return int(picture.tag_v2[256]), int(picture.tag_v2[257])
    return picture.size
