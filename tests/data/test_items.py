"""Finding pictures and captions, and what is said when something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lorica.data.items import Item, find_items
from lorica.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, one of them in a subfolder, and one file that is none."""
    (tmp_path / "more").mkdir()
    for name in ("b.png", "a.JPG", "more/c.webp"):
        Image.new("RGB", (3, 5)).save(tmp_path / name)
    (tmp_path / "notes.md").write_text("not a picture")
    return tmp_path


def write_rows(folder: Path, *rows: object) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def row(name: str, text: str = "words", column: str = "text") -> dict[str, str]:
    return {"file_name": name, column: text}


def test_captions_lie_beside_the_pictures(folder: Path) -> None:
    for name in ("b", "a", "more/c"):
        (folder / f"{name}.txt").write_text(f"  the {name[-1]}\nof   it\n", encoding="utf-8")
    assert find_items(folder) == [
        Item(folder / "a.JPG", "the a of it"),
        Item(folder / "b.png", "the b of it"),
        Item(folder / "more/c.webp", "the c of it"),
    ]


def test_captions_come_from_metadata_in_its_order(folder: Path) -> None:
    write_rows(folder, row("more/c.webp", "c", "note"), "", row("b.png", "ü", "note"), row("a.JPG", "a", "note"))
    found = find_items(folder, caption_column="note")
    assert [(item.path.name, item.caption) for item in found] == [("c.webp", "c"), ("b.png", "ü"), ("a.JPG", "a")]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_only_a_newline_ends_a_line_of_metadata(folder: Path, mark: str) -> None:
    lines = [json.dumps(row(name, f"one{mark}two"), ensure_ascii=False) for name in ("b.png", "a.JPG", "more/c.webp")]
    (folder / "metadata.jsonl").write_bytes("\r\n".join(lines).encode())
    assert [item.caption for item in find_items(folder)] == [f"one{mark}two"] * 3


def test_a_picture_may_have_several_captions(folder: Path) -> None:
    write_rows(folder, row("b.png", "one"), row("b.png", "two"), row("a.JPG"), row("more/c.webp"))
    assert [item.caption for item in find_items(folder)][:2] == ["one", "two"]


def test_one_caption_for_all_needs_no_files(folder: Path) -> None:
    assert [item.caption for item in find_items(folder, caption="a sks dog")] == ["a sks dog"] * 3


def test_hidden_files_are_left_out(folder: Path) -> None:
    (folder / ".thumbs").mkdir()
    Image.new("RGB", (3, 5)).save(folder / ".thumbs/x.png")
    assert len(find_items(folder, caption="x")) == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["{broken"], r"metadata\.jsonl, line 1: not valid JSON"),
        (["[1, 2]"], r"line 1: expected an object such as .*got \[1, 2\]"),
        ([{"file": "b.png", "text": "x"}], r"no field 'file_name'; did you mean 'file'\? It holds: 'file', 'text'"),
        ([row("b.png", column="texts")], r"no field 'text'; did you mean 'texts'\?.*--caption_column"),
        ([row("b.png", column="zzz")], r"no field 'text'\. It holds: 'file_name', 'zzz'"),
        ([row("gone.png")], r"line 1: there is no file .*gone\.png"),
        ([{"file_name": "b.png", "text": 3}], r"'text' must be a text or a list of texts, got 3"),
        ([{"file_name": "", "text": "x"}], r"'file_name' must be the name of a file, got ''"),
        ([row("b.png")], r"says nothing about 2 of 3 pictures: a\.JPG, more/c\.webp"),
    ],
)
def test_each_fault_of_metadata_has_its_message(folder: Path, rows: list[object], message: str) -> None:
    write_rows(folder, *rows)
    with pytest.raises(DataError, match=message):
        find_items(folder)


def test_missing_captions_are_counted_and_named(folder: Path) -> None:
    (folder / "b.txt").write_text("b")
    with pytest.raises(DataError, match=r"2 of 3 pictures .* have no caption: a\.JPG, more/c\.webp.*--instance_prompt"):
        find_items(folder)


def test_a_caption_that_is_not_utf8_is_named(folder: Path) -> None:
    for name in ("b", "a", "more/c"):
        (folder / f"{name}.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"a\.txt cannot be used: line 1 is not UTF-8"):
        find_items(folder)


def test_an_empty_or_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no picture in"):
        find_items(tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        find_items(tmp_path / "gone")
