"""Every kind of picture becomes RGB, upright, on white; cuts lie where the view says."""

from __future__ import annotations

from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lorica.data.colour import to_rgb
from lorica.data.decoding import load_picture, picture_size
from lorica.data.images import View, choose_view, fit, fits_exactly, to_tensor, views_of
from lorica.errors import DataError
from lorica.rng import generator

NAME = Path("folder/name.png")
RANDOM = partial(generator, 3, 0)


def encoded(picture: Image.Image, kind: str = "png", **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(picture: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    return picture.getpixel((x, y))  # type: ignore[return-value]


def test_transparent_parts_become_white() -> None:
    picture = Image.new("RGBA", (3, 5), (200, 0, 0, 0))
    picture.putpixel((1, 2), (0, 100, 0, 128))
    loaded = load_picture(encoded(picture), NAME)
    assert loaded.mode == "RGB"
    assert pixel(loaded) == (255, 255, 255)
    assert pixel(loaded, 1, 2) == pytest.approx((127, 177, 127), abs=1)


def test_a_palette_with_a_transparent_entry_becomes_white_there() -> None:
    picture = Image.new("P", (3, 5), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.putpixel((2, 1), 0)
    loaded = load_picture(encoded(picture, transparency=1), NAME)
    assert pixel(loaded) == (255, 255, 255)
    assert pixel(loaded, 2, 1) == (0, 0, 0)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("L", (3, 5), 77), (77, 77, 77)),
        (Image.new("1", (3, 5), 1), (255, 255, 255)),
        (Image.new("LA", (3, 5), (40, 0)), (255, 255, 255)),
        (Image.fromarray(np.full((5, 3), 257 * 90, np.uint16)), (90, 90, 90)),
        (Image.fromarray(np.full((5, 3), 256 * 90, np.uint16)), (89, 89, 89)),  # 257 is one level
        (Image.new("CMYK", (3, 5), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("I", (3, 5), 257 * 31), (31, 31, 31)),
    ],
)
def test_every_mode_becomes_rgb(picture: Image.Image, expected: tuple[int, int, int]) -> None:
    assert pixel(to_rgb(picture)) == expected


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    loaded = load_picture(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "jpeg"), NAME)
    assert pixel(loaded) == pytest.approx((255, 0, 0), abs=3)


def test_the_exif_orientation_is_honoured() -> None:
    picture = Image.new("RGB", (4, 6), "blue")
    picture.paste("red", (0, 0, 4, 2))  # red on top
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    content = encoded(picture, exif=exif)
    loaded = load_picture(content, NAME)
    assert loaded.size == picture_size(content, NAME) == (6, 4)
    assert pixel(loaded, 5, 0) == (255, 0, 0)  # now on the right
    assert pixel(loaded, 0, 3) == (0, 0, 255)


def test_a_broken_picture_is_named() -> None:
    with pytest.raises(DataError, match=r"folder/name\.png is not a picture"):
        load_picture(b"no picture", NAME)
    with pytest.raises(DataError, match=r"folder/name\.png is not a picture"):
        picture_size(b"", NAME)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8))
    for kind in ("png", "jpeg"):
        content = encoded(noise, kind)
        with pytest.raises(DataError, match=r"folder/name\.png is broken or cut short"):
            load_picture(content[: len(content) // 2], NAME)


def test_a_cut_lies_where_the_view_says() -> None:
    picture = Image.new("RGB", (12, 4))
    for x in range(12):
        picture.putpixel((x, 0), (20 * x, 0, 0))
    left, middle, right = (fit(picture, 4, 4, View(share, 0.5)) for share in (0.0, 0.5, 1.0))
    assert [pixel(cut)[0] for cut in (left, middle, right)] == [0, 80, 160]
    assert pixel(fit(picture, 4, 4, View(0.0, 0.5, flip=True)), 3)[0] == 0


@pytest.mark.parametrize("size", [(50, 70), (70, 50), (9, 100), (16, 24), (1, 1)])
def test_a_cut_has_the_size_that_was_asked_for(size: tuple[int, int]) -> None:
    for view in (View(), View(0.0, 0.0), View(1.0, 1.0, flip=True)):
        assert fit(Image.new("RGB", size), 24, 16, view).size == (16, 24)


def test_a_picture_of_the_right_shape_needs_no_cut() -> None:
    assert fits_exactly((64, 64), 32, 32)
    assert fits_exactly((200, 300), 24, 16)
    assert not fits_exactly((65, 64), 32, 32) or fit(Image.new("RGB", (65, 64)), 32, 32, View()).size == (32, 32)
    assert not fits_exactly((80, 64), 32, 32)


def test_pixels_run_from_minus_one_to_one() -> None:
    picture = Image.new("RGB", (3, 5), (0, 255, 51))
    tensor = to_tensor(picture)
    assert tensor.shape == (3, 5, 3)
    assert tensor[:, 4, 2].tolist() == pytest.approx([-1.0, 1.0, -0.6])
    assert tensor.dtype == torch.float32


def test_the_middle_alone_and_mirrored() -> None:
    assert views_of("digest", RANDOM, crops=1, flip=False) == (View(0.5, 0.5, flip=False),)
    assert views_of("digest", RANDOM, crops=1, flip=True) == (View(), View(flip=True))


def test_cuts_at_random_differ_by_picture_and_not_by_run() -> None:
    views = views_of("one", RANDOM, crops=4, flip=True)
    assert len(set(views)) == 8
    assert views == views_of("one", RANDOM, crops=4, flip=True)
    assert views != views_of("two", RANDOM, crops=4, flip=True)
    assert all(0 <= share < 1 for view in views for share in (view.left, view.top))


def test_every_view_is_chosen_at_times() -> None:
    chosen = [choose_view(5, generator(1, step, "view")) for step in range(200)]
    assert set(chosen) == set(range(5))
