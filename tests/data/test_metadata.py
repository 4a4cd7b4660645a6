"""``metadata.jsonl`` is written whole or not at all, and never over another one unasked."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from lorica.data.items import Item, find_items
from lorica.data.metadata import write_metadata
from lorica.errors import DataError, FileError


def test_what_is_written_is_what_training_reads(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    a, b = tmp_path / "a.png", tmp_path / "sub" / "ß.png"
    for path in (a, b):
        Image.new("RGB", (3, 5)).save(path)
    captions = {b: ('ein "Fuß"\u2028',), a: ("one", "two")}
    assert write_metadata(tmp_path, captions, caption_column="note") == tmp_path / "metadata.jsonl"
    expected = [Item(b, 'ein "Fuß"\u2028'), Item(a, "one"), Item(a, "two")]
    assert find_items(tmp_path, caption_column="note") == expected


def test_another_one_is_replaced_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text("mine")
    with pytest.raises(FileError, match=r"metadata\.jsonl already; .*--overwrite"):
        write_metadata(tmp_path, {tmp_path / "a.png": ("a",)})
    assert (tmp_path / "metadata.jsonl").read_text() == "mine"
    write_metadata(tmp_path, {tmp_path / "a.png": ("ü",)}, overwrite=True)
    assert (tmp_path / "metadata.jsonl").read_bytes() == '{"file_name": "a.png", "text": "ü"}\n'.encode()


@pytest.mark.skipif(sys.platform == "win32", reason="file names are text there")
def test_a_name_that_is_no_text_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not UTF-8; rename it"):
        write_metadata(tmp_path, {tmp_path / os.fsdecode(b"a\xff.png"): ("a",)})
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metadata.jsonl"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(FileError, match=r"cannot write .*metadata\.jsonl: .*No space left"):
        write_metadata(tmp_path, {tmp_path / "a.png": ("new",)}, overwrite=True)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("metadata.jsonl", "old")]
