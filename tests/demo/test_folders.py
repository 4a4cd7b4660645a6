"""Folders of pictures with captions."""

import json
from pathlib import Path

from PIL import Image

from lorica.demo.folders import write_pictures


def test_each_picture_has_a_line(tmp_path: Path) -> None:
    pictures = [(Image.new("RGB", (5, 7), color), f"a {color} field") for color in ("red", "blue")]
    folder = write_pictures(tmp_path / "new" / "folder", pictures)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == [{"file_name": "00.png", "text": "a red field"}, {"file_name": "01.png", "text": "a blue field"}]
    with Image.open(folder / "01.png") as picture:
        assert picture.getpixel((0, 0)) == (0, 0, 255)
