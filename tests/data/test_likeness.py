"""Pictures that are alike are found through scaling, JPEG and brightness; others are told apart."""

from __future__ import annotations

import random
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from lorica.data import likeness
from lorica.data.likeness import BITS, Fingerprint, fingerprint, groups_alike
from lorica.demo.captions import random_scene
from lorica.demo.drawing import draw


def drawings(count: int) -> list[Image.Image]:
    rng = random.Random(1)
    return [draw(random_scene(rng)) for _ in range(count)]


def as_jpeg(picture: Image.Image) -> Image.Image:
    content = BytesIO()
    picture.save(content, "JPEG", quality=50)
    return Image.open(content).convert("RGB")


def mark(edges: int, colour: int = 0) -> Fingerprint:
    """A fingerprint whose first ``edges`` bits are set."""
    return Fingerprint(np.arange(BITS) < edges, np.full((8, 8, 3), colour, dtype=np.uint8))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg": as_jpeg,
    "half": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "wider": lambda picture: picture.resize((picture.width * 3, picture.height * 2)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(change: str) -> None:
    pictures = drawings(20)
    marks = [fingerprint(picture) for picture in [*pictures, *map(CHANGES[change], pictures)]]
    assert groups_alike(marks) == [[index, index + 20] for index in range(20)]


def test_a_brighter_copy_is_nearly_always_found() -> None:
    pictures = drawings(20)
    brighter = [ImageEnhance.Brightness(picture).enhance(1.05) for picture in pictures]
    found = groups_alike([fingerprint(picture) for picture in [*pictures, *brighter]])
    assert all(second == first + 20 for first, second in found)
    assert len(found) >= 18


def test_colour_alone_tells_pictures_apart() -> None:
    red, blue = (Image.new("RGB", (30, 20), colour) for colour in ((200, 0, 0), (0, 60, 200)))
    assert groups_alike([fingerprint(red), fingerprint(blue), fingerprint(red)]) == [[0, 2]]


def test_the_direction_of_edges_tells_pictures_apart() -> None:
    ramp = Image.linear_gradient("L").convert("RGB")
    marks = [fingerprint(ramp.rotate(angle)) for angle in (0, 90, 180, 270)]
    counts = [(int(mark.edges[:72].sum()), int(mark.edges[72:].sum())) for mark in marks]  # across, down
    assert counts == [(0, 72), (72, 0), (0, 0), (0, 0)]  # an edge is a step up, to the right or down


def test_noise_on_a_plain_wall_is_no_edge() -> None:
    values = np.random.default_rng(0).integers(127, 130, (9, 9, 1)).repeat(3, axis=2).astype(np.uint8)
    assert not fingerprint(Image.fromarray(values)).edges.any()


def test_the_distance_decides() -> None:
    marks = [mark(0), mark(5), mark(30)]
    assert groups_alike(marks, 5) == [[0, 1]]
    assert groups_alike(marks, 4) == []
    assert groups_alike(marks, 30) == [[0, 1, 2]]


def test_colours_may_differ_a_little() -> None:
    assert groups_alike([mark(3, 0), mark(3, 20)]) == [[0, 1]]
    assert groups_alike([mark(3, 0), mark(3, 21)]) == []
    assert groups_alike([mark(3, 255), mark(3, 0)]) == []  # no overflow of 8 bits


def test_alike_by_way_of_another_is_one_group() -> None:
    marks = [mark(8), mark(90), mark(0), mark(16), mark(94), mark(50)]
    assert groups_alike(marks, 8) == [[0, 2, 3], [1, 4]]


def test_groups_that_meet_late_become_one() -> None:
    assert groups_alike([mark(0), mark(20), mark(5), mark(25), mark(12)], 8) == [[0, 1, 2, 3, 4]]


def test_pictures_are_compared_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likeness, "ROWS", 2)
    assert groups_alike([mark(0), mark(40), mark(80), mark(120), mark(1), mark(41)], 3) == [[0, 4], [1, 5]]


def test_no_pictures_are_no_groups() -> None:
    assert groups_alike([]) == []


@pytest.mark.parametrize("count", [4_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_many_pictures_are_compared_in_seconds(count: int) -> None:
    """Half of them are plain, so that all their edges are alike; 2,000 are pairs. 20,000 took 14 s on two cores."""
    random = np.random.default_rng(0)
    colours = random.integers(0, 256, (count, 1, 1, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    edges = random.integers(0, 2, (count, likeness.BITS)).astype(bool)
    edges[::2] = False
    for twin in range(1, 4_000, 4):
        edges[twin + 2], colours[twin + 2] = edges[twin], colours[twin]
    marks = [likeness.Fingerprint(*pair) for pair in zip(edges, colours, strict=True)]
    groups = groups_alike(marks)
    assert sum(group[0] % 2 for group in groups) == 1_000
