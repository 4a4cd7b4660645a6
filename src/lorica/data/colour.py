"""Colours of pictures: any mode and any profile to sRGB, 8 bits, on white."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageChops, features

from lorica.errors import DataError

WHITE = (255, 255, 255)
DEEP_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space of a profile to mode of its pixels
DARKENING = 0x2000  # black point compensation of littlecms: the darkest ink becomes black
NEARLY_NOTHING = 1  # levels of 255: a profile that changes no colour by more is sRGB itself


def colour_version() -> str:
    """Version of this conversion, for the keys of caches: what was encoded in other colours is encoded anew."""
    return "sRGB 1" if _has_littlecms() else "unmanaged 1"


def to_rgb(picture: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """Picture in mode RGB and in sRGB, transparent parts like the background; 16-bit grey keeps its upper 8 bits.

    A picture with a profile is converted by it, perceptually; a profile that is broken, or for another kind of pixels,
    does not count.

    Raises:
        DataError: if its values are floats or 32-bit integers outside of a known range.
    """
    profile = picture.info.get("icc_profile")
    if picture.mode in DEEP_MODES or picture.mode == "F":
        return _managed(_eight_bits(picture), profile)
    if not picture.has_transparency_data:
        return _managed(picture, profile)
    layered = picture if picture.mode in ("LA", "RGBA") else picture.convert("RGBA")
    colours = _managed(layered.convert("L" if layered.mode == "LA" else "RGB"), profile)
    colours.paste(background, mask=ImageChops.invert(layered.getchannel("A")))
    return colours


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey picture of 16-bit or float values; Pillow would clip these to 255 instead of scaling them."""
    values = np.asarray(picture)
    least, most = float(values.min()), float(values.max())
    limit = 1.0 if picture.mode == "F" else 65535.0
    if not 0 <= least <= most <= limit:  # also NaN
        raise DataError(
            f"has values from {least:g} to {most:g}, expected 0 to {limit:g}: save it with 8 or 16 bits a channel."
        )
    scaled = np.rint(values * 255) if picture.mode == "F" else values.astype(np.int64) // 257
    return Image.fromarray(scaled.astype(np.uint8))


def _managed(picture: Image.Image, profile: object) -> Image.Image:
    """Opaque picture converted to sRGB by its profile, or as Pillow converts its mode."""
    plain = picture if picture.mode in SPACES.values() else picture.convert("RGB")
    transform = _transform(profile, plain.mode) if isinstance(profile, bytes) and profile else None
    if transform is not None:
        return transform.apply(plain)
    return plain if plain.mode == "RGB" else plain.convert("RGB")  # Pillow would copy


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> Any:
    """Transform from a profile to sRGB; None if it is broken, for another mode, or sRGB itself."""
    if not _has_littlecms():
        return None
    from PIL import ImageCms

    try:
        own: Any = ImageCms.getOpenProfile(BytesIO(profile)).profile
        if SPACES.get(own.xcolor_space.strip()) != mode:
            return None
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(own),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.PERCEPTUAL,
            flags=ImageCms.Flags(DARKENING),
        )
        return None if mode in ("RGB", "L") and _changes_nothing(transform, mode) else transform
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _changes_nothing(transform: Any, mode: str) -> bool:
    """Whether a transform leaves colours as they are, up to its own rounding."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(9, 81, 3)
    probe = Image.fromarray(grid).convert(mode)
    before = np.asarray(probe.convert("RGB"), dtype=np.int16)
    return int(np.abs(np.asarray(transform.apply(probe), dtype=np.int16) - before).max()) <= NEARLY_NOTHING


def _has_littlecms() -> bool:
    return bool(features.check("littlecms2"))
