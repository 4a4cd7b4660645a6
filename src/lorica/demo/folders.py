"""Folder of pictures and captions in the layout that every trainer of the field reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from PIL import Image


def write_pictures(folder: str | Path, pictures: Iterable[tuple[Image.Image, str]]) -> Path:
    """Write ``00.png``, ``01.png``, ... and ``metadata.jsonl`` (file name and caption a line); return the folder."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for index, (picture, caption) in enumerate(pictures):
        name = f"{index:02d}.png"
        picture.save(place / name)
        lines.append(json.dumps({"file_name": name, "text": caption}))
    (place / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place
