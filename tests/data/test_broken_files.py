"""Nothing but a result or the error that names the file comes of any file, whatever is wrong with it."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from broken_files import damaged, pictures, texts
from lorica.data.captions import read_captions
from lorica.data.decoding import formats, has_alpha, load_picture, picture_size
from lorica.data.images import View, fit, to_tensor
from lorica.data.items import find_items
from lorica.data.masks import load_mask
from lorica.errors import ConfigError, DataError, FileError
from lorica.training.config.config import RunConfig

COUNTS = [300, pytest.param(10_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_picture_is_read_or_named(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)  # a damaged size may be large, and would take its time
    whole, name = pictures(), Path("folder/a.png")
    read, messages = 0, list[str]()
    for seed in range(count):
        content = damaged(seed, whole)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of much that it reads nevertheless
                size = picture_size(content, name)
                has_alpha(content, name)
                loaded = load_picture(content, name)
                assert loaded.mode == "RGB"
                assert loaded.size == size, (seed, loaded.format)
                assert to_tensor(fit(loaded, 8, 8, View())).isfinite().all()
                load_mask(content, name, loaded.size)
            read += 1
        except DataError as error:
            messages.append(str(error))
    assert all(str(name) in message and len(message) < 500 for message in messages)
    assert min(read, len(messages)) > count / 10  # or the damage would be too little, or too much


def test_files_of_every_format_are_among_them() -> None:
    found = set[str]()
    warnings.simplefilter("ignore")
    for content in pictures():
        try:
            load_picture(content, Path("x"))
        except DataError:
            continue
        with Image.open(BytesIO(content)) as opened:
            found.add(opened.format or "")
    assert len(found) >= 20, found
    assert {"PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "TGA", "PPM", "SUN", "PSD"} <= found
    assert {name.upper() for name in found} <= set(formats())


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "toml", "set"])
def test_a_damaged_text_is_read_or_named(kind: str, count: int, tmp_path: Path) -> None:
    for name in ("a.png", "é.png"):
        Image.new("RGB", (3, 5)).save(tmp_path / name)
    names = {"txt": "a.txt", "jsonl": "metadata.jsonl", "csv": "metadata.csv", "toml": "run.toml", "set": "set"}
    path, whole, messages = tmp_path / names[kind], texts(kind), list[str]()
    for seed in range(count // 5):
        path.write_bytes(damaged(seed, whole))
        try:
            if kind == "toml":
                RunConfig.from_toml(path)
            elif kind == "set":
                RunConfig.from_values({"datasets": (path.read_bytes().decode("utf-8", "surrogateescape"),)})
            else:
                found = read_captions(tmp_path, [tmp_path / "a.png"])
                assert all(finding.name.isprintable() and len(finding.detail) < 400 for finding in found.findings)
                find_items(tmp_path)
        except (DataError, ConfigError, FileError) as error:
            messages.append(str(error))
    assert all(len(message.encode("utf-8")) < 5000 for message in messages)  # and none holds half a character
