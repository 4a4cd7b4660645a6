"""Colours by the picture's own profile, values of any depth, and files that are odd but whole."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, features

from icc_profiles import ADOBE_RGB, DISPLAY_P3, PROPHOTO, SRGB, Matrix, gray_profile, rgb_profile, to_srgb
from lorica.data import decoding
from lorica.data.colour import colour_version, to_rgb
from lorica.data.decoding import formats, has_alpha, load_picture, picture_size, suffixes
from lorica.data.images import View, fit
from lorica.data.masks import load_mask
from lorica.errors import DataError

NAME = Path("folder/name.png")
COLOURS = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
ROUNDING = 1.6  # levels of 255; worst measured 1.3, at the dark end of ProPhoto


def encoded(picture: Image.Image, kind: str = "png", **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("primaries", "gamma", "error"), [(DISPLAY_P3, 2.2, 25), (ADOBE_RGB, 2.2, 35), (PROPHOTO, 1.8, 60)]
)
@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
def test_colours_are_those_of_the_profile(primaries: Matrix, gamma: float, error: int, kind: str) -> None:
    options = {"lossless": True} if kind == "webp" else {}
    content = encoded(Image.fromarray(COLOURS), kind, icc_profile=rgb_profile(primaries, gamma), **options)
    right = to_srgb(COLOURS, primaries, gamma)
    loaded = np.asarray(load_picture(content, NAME), dtype=float)
    assert np.abs(loaded - right).max() < ROUNDING
    assert np.abs(COLOURS - right).max() > error  # or nothing would have been converted


def test_colours_under_transparent_parts_are_converted_too() -> None:
    picture = Image.fromarray(COLOURS).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    content = encoded(picture, icc_profile=rgb_profile(ADOBE_RGB, 2.2))
    alpha = np.asarray(picture.getchannel("A"), dtype=float)[..., None] / 255
    right = to_srgb(COLOURS, ADOBE_RGB, 2.2) * alpha + 255 * (1 - alpha)
    assert np.abs(np.asarray(load_picture(content, NAME), dtype=float) - right).max() < 1 + ROUNDING


def test_grey_has_a_profile_too() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(8, 32)
    content = encoded(Image.fromarray(ramp), icc_profile=gray_profile(1.8))
    loaded = np.asarray(load_picture(content, NAME), dtype=float)
    right = to_srgb(ramp[..., None].repeat(3, axis=2), SRGB, 1.8)
    assert np.abs(loaded - right)[ramp > 12].max() < ROUNDING  # littlecms samples the darkest greys coarsely
    assert np.abs(ramp[..., None] - right).max() > 10


def test_a_picture_in_srgb_stays_as_it_is_bit_for_bit() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    loaded = load_picture(encoded(Image.fromarray(COLOURS), icc_profile=profile), NAME)
    assert np.array_equal(np.asarray(loaded), COLOURS)


@pytest.mark.parametrize("profile", [b"no profile", rgb_profile(ADOBE_RGB, 2.2)[:200], gray_profile(2.2), b"\0" * 900])
def test_a_broken_or_foreign_profile_does_not_stop_a_read(profile: bytes) -> None:
    loaded = load_picture(encoded(Image.fromarray(COLOURS), icc_profile=profile), NAME)
    assert np.array_equal(np.asarray(loaded), COLOURS)


def test_lab_becomes_rgb() -> None:
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (3, 5), (200, 40, 90)),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    content = encoded(lab, "tiff")
    assert load_picture(content, NAME).getpixel((1, 1)) == pytest.approx((200, 40, 90), abs=2)


def test_the_version_of_colours_tells_whether_profiles_count(monkeypatch: pytest.MonkeyPatch) -> None:
    managed = colour_version()
    monkeypatch.setattr(features, "check", lambda _: False)
    assert colour_version() != managed


def test_the_values_of_a_mask_are_no_colours() -> None:
    ramp = Image.fromarray(np.arange(240, dtype=np.uint8).reshape(12, 20))
    mask = load_mask(encoded(ramp, icc_profile=gray_profile(1.0)), NAME, ramp.size)
    assert np.array_equal(np.asarray(mask), np.asarray(ramp))


def test_floats_from_0_to_1_are_scaled_and_others_refused() -> None:
    values = np.linspace(0, 1, 15, dtype=np.float32).reshape(5, 3)
    loaded = np.asarray(load_picture(encoded(Image.fromarray(values), "tiff"), NAME))
    assert np.array_equal(loaded[..., 0], np.rint(values * 255))
    for bad in (values * 255, values - 1, np.full((5, 3), np.nan, np.float32)):
        with pytest.raises(DataError, match=r"^folder/name\.png has values from .* expected 0 to 1: save it with 8"):
            load_picture(encoded(Image.fromarray(bad), "tiff"), NAME)


def test_integers_of_32_bits_are_of_16_or_refused() -> None:
    values = np.arange(15, dtype=np.int32).reshape(5, 3)
    assert load_picture(encoded(Image.fromarray(values * 257), "tiff"), NAME).getpixel((2, 4)) == (14, 14, 14)
    for bad in (values * 10**8, values - 3):
        with pytest.raises(DataError, match="expected 0 to 65535"):
            load_picture(encoded(Image.fromarray(bad), "tiff"), NAME)


@pytest.mark.parametrize("kind", ["tiff", "jpeg", "png", "webp", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_in_the_header_is_that_of_the_upright_picture(kind: str, orientation: int) -> None:
    if kind not in {name.lower() for name in formats()}:
        pytest.skip(f"Pillow was built without {kind}")
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(COLOURS), kind, exif=exif)
    expected = (9, 11) if orientation > 4 else (11, 9)
    assert picture_size(content, NAME) == load_picture(content, NAME).size == expected


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(content: bytes, *chunks: bytes, at_end: bool = False) -> bytes:
    place = content.rindex(b"IEND") - 4 if at_end else 33  # after IHDR
    return content[:place] + b"".join(chunks) + content[place:]


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        chunk(b"tEXt", b"a\0" + b"x" * 2**21),
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26))),
        chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(2**26))),
        chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**27))),
    ],
    ids=["text", "packed text", "packed international text", "profile"],
)
def test_a_png_with_a_large_text_or_profile_is_read(text: bytes, at_end: bool) -> None:
    content = with_chunks(encoded(Image.fromarray(COLOURS)), text, at_end=at_end)
    assert np.array_equal(np.asarray(load_picture(content, NAME)), COLOURS)
    assert picture_size(content, NAME) == (11, 9)


def test_a_large_profile_of_a_png_counts() -> None:
    profile = rgb_profile(ADOBE_RGB, 2.2)
    profile = struct.pack(">I", len(profile) + 2**21) + profile[4:] + bytes(2**21)
    content = with_chunks(encoded(Image.fromarray(COLOURS)), chunk(b"iCCP", b"a\0\0" + zlib.compress(profile)))
    right = to_srgb(COLOURS, ADOBE_RGB, 2.2)
    assert np.abs(np.asarray(load_picture(content, NAME), dtype=float) - right).max() < ROUNDING


def test_too_many_pixels_are_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(DataError, match=r"name\.png has more pixels .* save a smaller copy.* PIL\.Image\.MAX_IMAGE"):
        load_picture(encoded(Image.fromarray(COLOURS)), NAME)


def test_a_picture_that_is_large_when_decoded_is_held_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 megapixels took 1.7 GB, in five copies: turned, with alpha, white, blended and without alpha."""
    made: list[tuple[int, int]] = []
    turn = ImageOps.exif_transpose

    def counted(picture: Image.Image, *, in_place: bool = False) -> Image.Image | None:
        assert in_place
        return turn(picture, in_place=in_place)

    monkeypatch.setattr(ImageOps, "exif_transpose", counted)
    monkeypatch.setattr(Image.Image, "copy", lambda picture: made.append(picture.size) or picture)
    loaded = load_picture(encoded(Image.fromarray(COLOURS)), NAME)
    assert np.array_equal(np.asarray(loaded), COLOURS)
    assert made == []


@pytest.mark.parametrize("size", [(1, 60000), (60000, 1)])
def test_a_very_long_picture_is_cut_without_being_enlarged_whole(size: tuple[int, int]) -> None:
    assert fit(Image.new("RGB", size), 512, 512, View(1.0, 1.0)).size == (512, 512)


def test_a_part_is_resized_as_the_whole_would_be() -> None:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 140, 3), np.uint8))
    whole = picture.resize((50, 32), Image.Resampling.LANCZOS).crop((9, 0, 41, 32))
    part = fit(picture, 32, 32, View(0.5, 0.5))
    assert np.abs(np.asarray(whole, dtype=int) - np.asarray(part)).max() <= 1


@pytest.mark.parametrize("error", [RuntimeError("Failed to decode"), KeyError("x"), struct.error("short")])
def test_whatever_a_decoder_raises_names_the_file(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Image.Image:
        raise error

    monkeypatch.setattr(decoding.Image, "open", broken)
    for function in (load_picture, picture_size, has_alpha):
        with pytest.raises(DataError, match=r"folder/name\.png is broken or cut short"):
            function(b"x", NAME)


def test_formats_that_start_programs_are_no_pictures() -> None:
    assert {"PNG", "JPEG", "TIFF", "TGA", "JPEG2000"} <= set(formats())
    assert not {"EPS", "WMF", "MPEG"} & set(formats())
    assert {".png", ".jfif", ".jpe", ".jp2", ".tga", ".ppm", ".tiff"} <= suffixes()
    assert not {".eps", ".ps", ".pdf", ".h5"} & suffixes()
    with pytest.raises(DataError, match="is not a picture"):
        load_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", NAME)


def test_every_mode_of_pillow_of_files_becomes_rgb() -> None:
    for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I;16"):
        assert to_rgb(Image.new(mode, (3, 5))).mode == "RGB"
