"""Hashing beside other work: the right values, errors when they are asked for, and an end when nobody waits."""

from __future__ import annotations

import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorica.tools import digests
from lorica.tools.digests import Digests


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file({"a": torch.randn(300, 7), "b": torch.randn(5)}, tmp_path / "a.safetensors", {"note": "text"})
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("piece", [1000, 1 << 26])
def test_they_are_those_of_all_bytes_and_of_the_tensors(
    piece: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "PIECE", piece)
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    with Digests(path) as computed:
        assert computed.values() == (sha256(content).hexdigest(), sha256(content[8 + header :]).hexdigest())
        assert computed.values()[0] == sha256(content).hexdigest()  # as often as one asks


@pytest.mark.parametrize(("content", "error"), [(None, FileNotFoundError), (b"", ValueError)])
def test_what_cannot_be_hashed_is_said_when_it_is_asked_for(
    content: bytes | None, error: type[Exception], tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with Digests(tmp_path / "a") as computed, pytest.raises(error):
        computed.values()


def test_a_file_that_is_none_of_this_format_is_hashed_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"<html>")
    with Digests(tmp_path / "a") as computed:
        assert computed.values() == (sha256(b"<html>").hexdigest(), sha256(b"").hexdigest())


def test_the_end_of_the_block_stops_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []

    class Slow:
        def update(self, piece: memoryview) -> None:
            pieces.append(len(piece))
            time.sleep(1e-3)

        def hexdigest(self) -> str:
            return ""

    monkeypatch.setattr(digests, "PIECE", 1)
    monkeypatch.setattr(digests, "sha256", Slow)
    with Digests(path):
        pass
    assert len(pieces) < path.stat().st_size  # all of it twice would take twenty seconds


def test_hashing_begins_before_anything_slow_is_imported() -> None:
    slow = ("numpy", "torch", "lorica.formats")
    code = f"import sys, lorica.tools.digests; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
