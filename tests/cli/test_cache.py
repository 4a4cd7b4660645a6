"""``lorica cache``: what it shows and what it deletes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from lorica.cli.cache import bytes_in
from lorica.cli.main import run
from lorica.data.cache import Cache
from lorica.errors import ConfigError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """Three files of a kilobyte each, used one after the other."""
    monkeypatch.setenv("LORICA_CACHE", str(tmp_path))
    cache = Cache(tmp_path)
    for number, key in enumerate(("aa1", "bb2", "cc3")):
        cache.keep(key, {"a": torch.zeros(256)})
        os.utime(next(tmp_path.glob(f"{key[:2]}/*")), (number, number))
    return cache


def test_it_shows_the_folder_and_its_size(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache"]) == 0
    assert f"{cache.folder}: 3 files, 3." in capsys.readouterr().out


def test_what_was_used_the_longest_ago_goes_first(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert cache.look_up("aa1") is not None  # used just now
    assert run(["cache", "--limit", "2.9K", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["files"], facts["deleted_bytes"] > 1000) == (2, True)
    assert [cache.look_up(key) is None for key in ("aa1", "bb2", "cc3")] == [False, True, False]


def test_clear_deletes_everything_and_nothing_else(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "aa" / ".aa1.safetensors.12345678.part").write_text("half")
    assert run(["cache", "--clear"]) == 0
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mine.txt"]
    assert run(["cache", "--clear", "--limit", "3"]) == 2


def test_sizes_are_read_as_people_write_them() -> None:
    assert [bytes_in(text) for text in ("500", "2k", "1.5 GB", "3MiB")] == [500, 2048, 3 * 2**29, 3 * 2**20]
    for text in ("", "many", "-3", "1e9", "3XB"):
        with pytest.raises(ConfigError, match="is no size"):
            bytes_in(text)
