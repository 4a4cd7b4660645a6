from __future__ import annotations

import os
from pathlib import Path

import pytest

from lorica.atomic import atomic_write
from lorica.errors import FileError


@pytest.mark.parametrize("sync", [True, False])
def test_a_file_and_its_folder_come_into_being_at_the_end(sync: bool, tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path, sync=sync) as waiting:
        waiting.write_text("whole")
        assert not path.exists()
        assert waiting.parent == path.parent
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_on_the_way_leaves_the_old_file_and_nothing_beside(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def broken_off() -> None:
        with atomic_write(path) as waiting:
            waiting.write_text("half")
            raise error

    with pytest.raises(type(error)):
        broken_off()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_system_names_the_file(tmp_path: Path) -> None:
    with (
        pytest.raises(FileError, match=r"cannot write .*a\.txt: No space left on device\. Nothing was changed there"),
        atomic_write(tmp_path / "a.txt"),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(FileError, match="of our own"), atomic_write(tmp_path / "a.txt"):
        raise FileError("of our own words")
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot write"), atomic_write(tmp_path / "file" / "a.txt"):
        pass


def test_content_and_name_are_on_the_disk_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append((tmp_path / "a.txt").exists()))
    with atomic_write(tmp_path / "a.txt") as waiting:
        waiting.touch()
    assert synced == [False, True]


def test_the_ending_of_the_file_that_is_being_written_can_be_chosen(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.png", suffix=".png") as waiting:
        waiting.touch()
        assert (waiting.name[0], waiting.suffix) == (".", ".png")
