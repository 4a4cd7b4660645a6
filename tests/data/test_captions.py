"""Captions of a folder with every fault at once."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from lorica.data.captions import captions_in, name_in, read_captions, text_files_without_picture
from lorica.data.findings import Finding
from lorica.errors import DataError


def files(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return paths


def write_lines(folder: Path, *lines: object) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")


def test_text_files_give_one_caption_each(tmp_path: Path) -> None:
    a, b = files(tmp_path, "a.png", "sub/b.jpg")
    a.with_suffix(".txt").write_text("\ufeff ein\n Fuß ", encoding="utf-8")
    b.with_suffix(".txt").write_text(" ", encoding="utf-8")
    found = read_captions(tmp_path, [a, b])
    assert found.by_picture() == {a: ("ein Fuß",), b: ("",)}
    assert found.findings == []


def test_a_missing_and_an_unreadable_text_file_are_both_found(tmp_path: Path) -> None:
    a, b, c = files(tmp_path, "a.png", "sub/b.png", "c.png")
    c.with_suffix(".txt").write_bytes(b"caf\xe9")
    a.with_suffix(".txt").write_text("fine")
    found = read_captions(tmp_path, [a, b, c])
    assert found.by_picture() == {a: ("fine",)}
    assert [(finding.problem, finding.name) for finding in found.findings] == [
        ("caption_missing", "sub/b.png"),
        ("caption_unreadable", "c.txt"),
    ]
    assert "there is no b.txt" in found.findings[0].detail


def test_metadata_gives_captions_and_lists_of_them(tmp_path: Path) -> None:
    a, b = files(tmp_path, "a.png", "sub/b.png")
    write_lines(
        tmp_path,
        {"file_name": "sub/b.png", "note": ["one", "two"]},
        "",
        {"file_name": "a.png", "note": "ä"},
        {"file_name": "a.png", "note": "again"},
    )
    found = read_captions(tmp_path, [a, b], column="note")
    assert found.by_picture() == {b: ("one", "two"), a: ("ä", "again")}
    assert found.findings == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"file_name": "a.png"', "line 2: not valid JSON"),
        ("[" * 20000, "line 2: not valid JSON"),
        ('["a.png"]', "line 2: expected an object such as"),
        ('{"text": "a"}', "line 2: there is no field 'file_name'. It holds: 'text'"),
        ('{"file_name": 3, "text": "a"}', "'file_name' must be the name of a file, got 3"),
        ('{"file_name": "", "text": "a"}', "'file_name' must be the name of a file, got ''"),
        ("{}", "It holds: nothing"),
        ('{"file_name": "a.png", "txt": "a"}', "there is no field 'text'; did you mean 'txt'?"),
        ('{"file_name": "a.png", "text": 5}', "'text' must be a text or a list of texts, got 5"),
        ('{"file_name": "a.png", "text": []}', "'text' must be a text or a list of texts, got []"),
        ('{"file_name": "a.png", "text": ["a", null]}', "'text' must be a text or a list of texts"),
        (json.dumps({"file_name": "a.png", "text": "\ud800"}), r"'text' holds half of a character, as in '\\ud800'"),
        (json.dumps({"file_name": "a.png", "text": "w" * 10001}), "'text' has 10,001 characters, at most 10,000"),
    ],
)
def test_a_wrong_line_is_found_and_the_others_are_read(line: str, said: str, tmp_path: Path) -> None:
    (b,) = files(tmp_path, "b.png")
    files(tmp_path, "a.png")
    write_lines(tmp_path, "", line, {"file_name": "b.png", "text": "fine"})
    found = read_captions(tmp_path, [b])
    assert found.by_picture() == {b: ("fine",)}
    [finding] = found.findings
    assert (finding.problem, finding.name) == ("metadata_line", "metadata.jsonl")
    assert said in finding.detail


def test_an_entry_without_a_file_and_a_file_without_an_entry_are_found(tmp_path: Path) -> None:
    a, b = files(tmp_path, "a.png", "b.png")
    write_lines(tmp_path, {"file_name": "b.png", "text": "b"}, {"file_name": "gone/ä.png", "text": "c"})
    found = read_captions(tmp_path, [a, b])
    assert found.by_picture() == {b: ("b",)}
    assert found.findings == [
        Finding("metadata_without_file", "gone/ä.png", "metadata.jsonl, line 2"),
        Finding("caption_missing", "a.png", "metadata.jsonl has no line for it"),
    ]


def test_a_picture_whose_line_is_wrong_is_not_also_called_missing(tmp_path: Path) -> None:
    (a,) = files(tmp_path, "a.png")
    write_lines(tmp_path, {"file_name": "a.png"})
    assert [finding.problem for finding in read_captions(tmp_path, [a]).findings] == ["metadata_line"]


def test_metadata_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"metadata\.jsonl, line 1 is not UTF-8 .* save it as UTF-8"):
        read_captions(tmp_path, [])


def test_text_files_that_belong_to_no_picture_are_noted(tmp_path: Path) -> None:
    a, *_ = files(tmp_path, "a.png", "a.txt", "b.txt", "sub/a.txt", ".hidden/c.txt", "notes.md")
    assert [(note.problem, note.name) for note in text_files_without_picture(tmp_path, [a])] == [
        ("caption_without_picture", "b.txt"),
        ("caption_without_picture", "sub/a.txt"),
    ]


def test_names_are_relative_where_they_can_be_and_always_printable(tmp_path: Path) -> None:
    assert name_in(tmp_path, tmp_path / "sub" / "ä.png") == "sub/ä.png"
    assert name_in(tmp_path / "in", tmp_path / "out.png") == (tmp_path / "out.png").as_posix()
    if sys.platform != "win32":
        name_in(tmp_path, tmp_path / os.fsdecode(b"a\xff.png")).encode()


def test_a_text_file_holds_a_caption_a_line() -> None:
    assert captions_in("  a  red\theart\r\n\n ein Fuß \n") == ("a red heart", "ein Fuß")
    assert captions_in(" \n\n") == ()
