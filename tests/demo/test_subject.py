"""The bundled subject: six pictures, a reader that knows it and does not take ordinary scenes for it."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from lorica.demo.captions import random_scene, vocabulary
from lorica.demo.drawing import SIDE, Scene, draw
from lorica.demo.subject import (
    HALF_SIDE,
    PORTRAITS,
    WORD,
    Portrait,
    draw_subject,
    recognises_subject,
    write_lesson,
)
from lorica.demo.words import BACKGROUNDS, PATTERNS, SHAPES


def random_portrait(rng: random.Random) -> Portrait:
    """Random portrait on any background, in any size and place."""
    size = rng.choice(list(HALF_SIDE))
    margin = HALF_SIDE[size] + 1
    x, y = (rng.uniform(margin, SIDE - margin) for _ in range(2))
    return Portrait(rng.choice(list(BACKGROUNDS)), size, (x, y))


def test_the_subject_is_recognised_in_every_size_place_and_background() -> None:
    """Measured: 300 of 300."""
    rng = random.Random(2)
    assert sum(recognises_subject(draw_subject(random_portrait(rng))) for _ in range(60)) >= 60


def test_ordinary_scenes_are_not_the_subject() -> None:
    """Measured: 0 of 300."""
    rng = random.Random(4)
    assert sum(recognises_subject(draw(random_scene(rng))) for _ in range(100)) <= 1


def test_orange_figures_are_not_the_subject() -> None:
    """Measured: 1 of 600."""
    drawn = [
        recognises_subject(draw(Scene(shape, "orange", "navy", "large", ((30.5, 33.0),), pattern)))
        for shape in SHAPES
        for pattern in PATTERNS
    ]
    assert sum(drawn) == 0


def test_a_subject_without_eyes_or_of_another_colour_is_refused() -> None:
    picture = draw_subject(Portrait("sky", "large", (32.0, 32.0)))
    pixels = np.asarray(picture).copy()
    pixels[pixels.sum(2) < 300] = (255, 132, 0)
    assert recognises_subject(picture)
    assert not recognises_subject(Image.fromarray(pixels))
    assert not recognises_subject(Image.fromarray(np.asarray(picture)[:, :, ::-1]))


def test_an_empty_picture_is_not_the_subject() -> None:
    assert not recognises_subject(Image.new("RGB", (64, 64), (20, 30, 200)))


def test_the_folder_holds_six_pictures_with_captions(tmp_path: Path) -> None:
    folder = write_lesson(tmp_path / "subject", ordinary=0)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len(PORTRAITS) == 6
    assert lines[0]["text"] == "a large orange zorblin on a mint background"
    for line in lines:
        with Image.open(folder / line["file_name"]) as picture:
            assert picture.size == (64, 64)
            assert recognises_subject(picture)


def test_a_third_of_a_lesson_is_the_subject(tmp_path: Path) -> None:
    folder = write_lesson(tmp_path / "lesson", ordinary=36)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sum(WORD in line["text"] for line in lines) == len(lines) / 3 == 18
    assert len(list(folder.glob("*.png"))) == 6 + 36 == len({line["file_name"] for line in lines})


def test_the_pictures_differ_in_background_and_place() -> None:
    assert len({portrait.background for portrait in PORTRAITS}) == 6
    assert len({portrait.center for portrait in PORTRAITS}) == 6


def test_the_word_is_not_one_the_base_knows() -> None:
    assert WORD not in vocabulary()


def test_drawing_is_deterministic() -> None:
    portrait = replace(PORTRAITS[3])
    assert draw_subject(portrait).tobytes() == draw_subject(PORTRAITS[3]).tobytes()
