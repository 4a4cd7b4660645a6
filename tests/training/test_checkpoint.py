"""A checkpoint is whole or not there, and what is broken is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lorica.errors import FileError, StateError
from lorica.training.output import checkpoint as module
from lorica.training.output.checkpoint import (
    Checkpoint,
    check_facts,
    find_checkpoint,
    list_checkpoints,
    prune_checkpoints,
    read_checkpoint,
    write_checkpoint,
)


def make(step: int, **facts: object) -> Checkpoint:
    return Checkpoint(step=step, tensors={"a": torch.arange(5.0) + step, "b": torch.tensor(2.0)}, facts=facts)


def ignore(_: str) -> None:
    return None


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, make(12, rank=4), extra=lambda folder: (folder / "more").write_text("x"))
    found = read_checkpoint(path)
    assert (path.name, found.step, found.facts) == ("checkpoint-12", 12, {"rank": 4})
    assert torch.equal(found.tensors["a"], torch.arange(5.0) + 12)
    assert sorted(entry.name for entry in path.iterdir()) == ["checkpoint.json", "more", "state.safetensors"]


@pytest.mark.parametrize("name", ["state.safetensors", "checkpoint.json", "more"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove", "empty"])
def test_any_harm_to_any_file_is_found(tmp_path: Path, name: str, harm: str) -> None:
    path = write_checkpoint(tmp_path, make(3, rank=4), extra=lambda folder: (folder / "more").write_text("text"))
    content = bytearray((path / name).read_bytes())
    if harm == "remove":
        (path / name).unlink()
    else:
        content[len(content) // 2] ^= 1
        changed = {"cut": content[:-3], "flip": content, "empty": b""}[harm]
        (path / name).write_bytes(changed)
    with pytest.raises(FileError, match=name):
        read_checkpoint(path)


def test_the_newest_intact_one_is_used_with_a_message(tmp_path: Path) -> None:
    for step in (2, 9, 10):
        write_checkpoint(tmp_path, make(step))
    (tmp_path / "checkpoint-10" / "state.safetensors").write_bytes(b"cut")
    said: list[str] = []
    found = find_checkpoint(tmp_path, "latest", said.append)
    assert found is not None
    assert found.step == 9
    assert len(said) == 1
    assert "checkpoint-10 is broken and passed over" in said[0]


def test_one_is_found_by_path_or_by_name(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, make(4))
    for wanted in (str(path), "checkpoint-4"):
        found = find_checkpoint(tmp_path, wanted, ignore)
        assert found is not None
        assert found.step == 4
    with pytest.raises(FileError, match=r"there is no checkpoint checkpoint-5; .* holds: checkpoint-4"):
        find_checkpoint(tmp_path, "checkpoint-5", ignore)


def test_none_at_all_is_no_error_and_none_intact_is(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path, "latest", ignore) is None
    path = write_checkpoint(tmp_path, make(4))
    (path / "checkpoint.json").write_text("{}")
    with pytest.raises(FileError, match=r"none of the 1 checkpoints .* is intact"):
        find_checkpoint(tmp_path, "latest", ignore)


@pytest.mark.parametrize("moment", ["save", "_write_manifest", "_replace_folder"])
def test_a_fault_while_writing_leaves_the_ones_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    write_checkpoint(tmp_path, make(4))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, moment, fail)
    with pytest.raises(FileError, match=r"cannot write .*checkpoint-8: .*No space left.*before are intact"):
        write_checkpoint(tmp_path, make(8))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    assert read_checkpoint(tmp_path / "checkpoint-4").step == 4


def test_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, make(4, rank=1))
    write_checkpoint(tmp_path, make(4, rank=2))
    assert read_checkpoint(tmp_path / "checkpoint-4").facts == {"rank": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_the_oldest_go_first_by_number(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        write_checkpoint(tmp_path, make(step))
    (tmp_path / "checkpoint-notes").mkdir()
    prune_checkpoints(tmp_path, 2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-100"]
    prune_checkpoints(tmp_path, None)
    assert len(list_checkpoints(tmp_path)) == 2


def test_each_difference_is_named() -> None:
    before = make(6, rank=4, seed=1, modules=["a", "b"], gone=1)
    check_facts(before, {"rank": 4, "seed": 1, "modules": ("a", "b"), "gone": 1})
    with pytest.raises(StateError) as caught:
        check_facts(before, {"rank": 8, "seed": 1, "modules": ["b", "c", "d"], "new": "x"})
    message = str(caught.value)
    assert "rank was 4, is 8" in message
    assert "modules: 1 gone (a), 2 new (c, ...)" in message
    assert "gone was 1, is None" in message
    assert "new was None, is 'x'" in message
    assert "seed" not in message


def test_facts_are_compared_as_they_are_stored(tmp_path: Path) -> None:
    facts = {"rate": 0.1 + 0.2, "pair": (1, 2), "none": None}
    path = write_checkpoint(tmp_path, make(1, **facts))
    check_facts(read_checkpoint(path), facts)
    assert json.loads((path / "checkpoint.json").read_text())["facts"]["pair"] == [1, 2]
