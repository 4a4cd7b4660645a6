"""What is kept comes back bit for bit, and what is broken is made anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorica.data.cache import Cache, cache_folder, digest_of_tensors, key_of
from lorica.errors import FileError


def made() -> dict[str, torch.Tensor]:
    return {"a": torch.randn(3, 5), "b": torch.arange(7)}


def test_a_hit_is_what_was_computed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    first = cache.get("ab12", made)
    second = Cache(tmp_path).get("ab12", lambda: pytest.fail("computed again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_broken_file_is_computed_anew(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    first = cache.get("ab12", made)
    [path] = tmp_path.rglob("*.safetensors")
    content = path.read_bytes()
    changed = bytearray(content)
    changed[-3] ^= 1
    for broken in (content[:-9], content[:5], b"", bytes(changed)):
        path.write_bytes(broken)
        assert cache.look_up("ab12") is None
    cache.get("ab12", lambda: first)
    assert cache.look_up("ab12") is not None


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    Cache(tmp_path).get("ab12", made)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["ab12.safetensors"]


def test_a_folder_that_cannot_be_written_is_said_and_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file")
    assert torch.equal(cache.get("ab12", lambda: {"a": torch.ones(3)})["a"], torch.ones(3))
    assert cache.trouble is not None
    assert "cannot be written" in cache.trouble


def test_keys_tell_apart_what_differs() -> None:
    keys = [key_of(*parts) for parts in (("a", 1), ("a", "1"), ("a1",), ("a", 1, None), ("a", True), ("a", 0.5))]
    assert len(set(keys)) == len(keys)
    assert key_of("a", 1) == key_of("a", 1)


def test_a_digest_depends_on_every_byte_name_and_shape() -> None:
    base = {"w": torch.zeros(2, 6)}
    others = [
        {"w": torch.zeros(6, 2)},
        {"v": torch.zeros(2, 6)},
        {"w": torch.zeros(2, 6, dtype=torch.int32)},
        {"w": torch.zeros(2, 6).index_fill(1, torch.tensor(5), 1e-30)},
    ]
    digests = [digest_of_tensors(tensors) for tensors in (base, *others)]
    assert len(set(digests)) == 5
    assert digest_of_tensors(base, head=4) == digest_of_tensors(others[3], head=4)


def test_the_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORICA_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("LORICA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "lorica"


def test_values_are_read_from_their_files_each_time_and_not_held(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    kept = [cache.keep(key, {"a": torch.full((3,), number)}) for number, key in enumerate(("aa", "bb"))]
    values = cache.sequence(["aa", "bb"], kept, lambda a: a)
    assert [value.tolist() for value in values] == [[0, 0, 0], [1, 1, 1]]
    assert values[0] is not values[0]
    assert len(values[1:]) == 1
    next(tmp_path.glob("bb/*")).unlink()
    with pytest.raises(FileError, match=r"deleted or changed while a run needs it.*--resume_from_checkpoint latest"):
        _ = values[1]


def test_values_are_held_where_no_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for cache in (Cache(None), Cache(tmp_path / "file")):
        kept = [cache.keep("aa", {"a": torch.ones(3)})]
        assert torch.equal(cache.sequence(["aa"], kept, lambda a: a)[0], torch.ones(3))
