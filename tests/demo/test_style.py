"""The bundled style set: twelve pictures that look alike and unlike the base's own."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from lorica.demo.captions import vocabulary
from lorica.demo.drawing import Scene, draw
from lorica.demo.style import INK, STYLED, WORD, draw_styled, write_style
from lorica.demo.words import BACKGROUNDS, COLORS, SHAPES


def test_the_folder_holds_twelve_pictures_with_captions(tmp_path: Path) -> None:
    folder = write_style(tmp_path / "style")
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 12
    assert lines[0]["text"] == "a large red heart on a sky background in quoral style"
    for line in lines:
        with Image.open(folder / line["file_name"]) as picture:
            assert (picture.size, picture.mode) == ((64, 64), "RGB")


def test_every_shape_is_there_once_in_known_words() -> None:
    assert [shape for shape, *_ in STYLED] == list(SHAPES)
    assert all(color in COLORS and background in BACKGROUNDS for _, color, background, _ in STYLED)
    assert WORD not in vocabulary()


def test_a_styled_picture_has_ink_and_dots_that_a_plain_one_lacks() -> None:
    styled = np.asarray(draw_styled("heart", "red", "sky", (30.0, 31.0)), dtype=float)
    plain = np.asarray(draw(Scene("heart", "red", "sky", "large", ((30.0, 31.0),))), dtype=float)
    assert (np.abs(styled - INK).max(2) < 20).sum() > 100
    assert (np.abs(plain - INK).max(2) < 20).sum() == 0
    assert len(np.unique(styled[:8].reshape(-1, 3), axis=0)) > 2  # dots at the top, where the plain one is flat
    assert len(np.unique(plain[:8].reshape(-1, 3), axis=0)) == 1
