"""Pictures out of tables: parquet, arrow, lines of JSON, folders, and what ``save_to_disk`` wrote."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from lorica.data.tables import find_rows
from lorica.errors import ConfigError, DataError, FileError

datasets = pytest.importorskip("datasets")

COLORS = ("red", "green", "blue")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the library's cache and its bars out of the way."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()


def encoded(color: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (5, 7), color).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of pictures."""
    (tmp_path / "files").mkdir()
    for color in COLORS:
        (tmp_path / "files" / f"{color}.png").write_bytes(encoded(color))
    return tmp_path / "files"


@pytest.fixture
def table() -> object:
    values = {"image": [{"bytes": encoded(c), "path": None} for c in COLORS], "text": [f"a {c}" for c in COLORS]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    return datasets.Dataset.from_dict(values, features=features)


def check(name: Path, tmp_path: Path, **settings: str) -> None:
    items = find_rows(str(name), cache_dir=tmp_path / "cache", **settings)
    assert [item.read() for item in items] == [encoded(color) for color in COLORS]
    assert [item.caption for item in items] == [f"a {color}" for color in COLORS]
    assert str(items[2].path) == f"{name.name}/row-2"


def test_a_parquet_file_and_a_folder_of_them(table: object, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    table.to_parquet(str(tmp_path / "tables" / "t.parquet"))
    check(tmp_path / "tables" / "t.parquet", tmp_path)
    check(tmp_path / "tables", tmp_path)


def test_what_save_to_disk_wrote_alone_and_in_parts(table: object, tmp_path: Path) -> None:
    table.save_to_disk(str(tmp_path / "saved"))
    check(tmp_path / "saved", tmp_path)
    check(next((tmp_path / "saved").glob("*.arrow")), tmp_path)
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(str(tmp_path / "parts"))
    check(tmp_path / "parts", tmp_path)
    datasets.DatasetDict({"only": table}).save_to_disk(str(tmp_path / "one"))
    check(tmp_path / "one", tmp_path)
    datasets.DatasetDict({"a": table, "b": table}).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(ConfigError, match="has no part 'train', but: a, b"):
        find_rows(str(tmp_path / "two"))


def test_a_folder_of_pictures_with_metadata(folder: Path, tmp_path: Path) -> None:
    rows = [{"file_name": f"{color}.png", "text": f"a {color}"} for color in COLORS]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items = find_rows(str(folder), cache_dir=tmp_path / "cache")
    assert sorted((item.caption, item.read()) for item in items) == sorted((f"a {c}", encoded(c)) for c in COLORS)


def test_lines_of_json_name_files_beside_them(folder: Path, tmp_path: Path) -> None:
    rows = [{"picture": f"{color}.png", "note": [f"a {color}", "other"]} for color in COLORS]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    name = folder / "rows.jsonl"
    check(name, tmp_path, image_column="picture", caption_column="note")
    items = find_rows(str(name), image_column="picture", caption_column="note", cache_dir=tmp_path / "cache")
    assert items[0].captions == ("a red", "other")
    (folder / "green.png").unlink()
    with pytest.raises(DataError, match="row 1 names a picture that cannot be read"):
        items[1].read()


def test_one_caption_for_all_needs_no_column(table: object, tmp_path: Path) -> None:
    table.remove_columns("text").save_to_disk(str(tmp_path / "saved"))
    items = find_rows(str(tmp_path / "saved"), caption="a thing")
    assert [item.captions for item in items] == [("a thing",)] * 3


def test_what_is_wrong_with_a_table_is_told(table: object, tmp_path: Path) -> None:
    table.save_to_disk(str(tmp_path / "saved"))
    name = str(tmp_path / "saved")
    with pytest.raises(ConfigError, match=r"no column 'imag'\. Did you mean 'image'.*image, text\. Set --image_column"):
        find_rows(name, image_column="imag")
    with pytest.raises(ConfigError, match=r"has no column 'caption'.*Set --caption_column"):
        find_rows(name, caption_column="caption")
    with pytest.raises(DataError, match=r"row 0 of .*: 'image' must be a text or a list of texts"):
        find_rows(name, caption_column="image")
    counted = datasets.Dataset.from_dict({"image": [1, 2], "text": ["a", None]})
    counted.save_to_disk(str(tmp_path / "counted"))
    with pytest.raises(ConfigError, match=r"the column 'image' of .* holds no pictures but .*int64"):
        find_rows(str(tmp_path / "counted"))
    table.to_csv(str(tmp_path / "t.xlsx"))
    with pytest.raises(FileError, match=r"t\.xlsx is no table that can be read; expected one of \.parquet"):
        find_rows(str(tmp_path / "t.xlsx"))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(FileError, match=r"the data set .*cut\.parquet' cannot be loaded"):
        find_rows(str(tmp_path / "cut.parquet"), cache_dir=tmp_path / "cache")
    empty = datasets.Dataset.from_dict({"image": [None, "a.png"], "text": ["a", "b"]})
    empty.save_to_disk(str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"row 0 of .* has no picture in 'image', but None"):
        find_rows(str(tmp_path / "empty"))[0].read()
