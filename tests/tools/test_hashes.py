"""The hashes of a file, each computed here from what its inventors hash: a copy with the ``ss_`` metadata only."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from lorica.tools.digests import Digests
from lorica.tools.facts import Hash
from lorica.tools.hashes import hashes_of, unchecked

TRAINING = {"ss_network_dim": "4", "ss_output_name": 'täst "x"\n', "ss_session_id": "77"}
OTHER = {"modelspec.title": "a much longer text than the hashes can be", "note": "ü"}


def tensors() -> dict[str, Tensor]:
    return {"lora_unet_a.lora_down.weight": torch.randn(400, 800), "lora_unet_a.alpha": torch.tensor(3.0)}


def as_inventors_hash(content: dict[str, Tensor]) -> tuple[str, str]:
    copy = save(content, TRAINING)
    start = 8 + int.from_bytes(copy[:8], "little")
    return sha256(copy[start:]).hexdigest(), sha256(copy[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]


def written(tmp_path: Path, metadata: dict[str, str]) -> Path:
    content = tensors()
    model, legacy = as_inventors_hash(content)
    stored = {"sshs_model_hash": model, "sshs_legacy_hash": legacy, **metadata}
    save_file(content, tmp_path / "a.safetensors", {**TRAINING, **OTHER, **stored})
    return tmp_path / "a.safetensors"


def by_name(path: Path, metadata: dict[str, str]) -> dict[str, Hash]:
    with Digests(path) as digests:
        return {each.name: each for each in hashes_of(path, metadata, digests)}


def test_both_hashes_of_kohya_are_found_right(tmp_path: Path) -> None:
    path = written(tmp_path, {})
    model, legacy = as_inventors_hash_of(path)
    found = by_name(path, {"sshs_model_hash": model, "sshs_legacy_hash": legacy})
    assert [found[name].verdict for name in ("sshs_model_hash", "sshs_legacy_hash")] == ["right", "right"]
    assert [found[name].value for name in ("sshs_model_hash", "sshs_legacy_hash")] == [model, legacy]


def as_inventors_hash_of(path: Path) -> tuple[str, str]:
    from safetensors.torch import load_file

    return as_inventors_hash(load_file(path))


def test_the_hash_of_the_file_is_that_of_all_its_bytes(tmp_path: Path) -> None:
    path = written(tmp_path, {})
    assert by_name(path, {})["sha256"].value == sha256(path.read_bytes()).hexdigest()


def test_a_hash_that_is_not_stored_is_told_and_not_judged(tmp_path: Path) -> None:
    assert {each.verdict for each in by_name(written(tmp_path, {}), {}).values()} == {"not stored"}


def test_one_changed_byte_makes_the_hashes_wrong(tmp_path: Path) -> None:
    path = written(tmp_path, {})
    model, legacy = as_inventors_hash_of(path)
    content = bytearray(path.read_bytes())
    content[0x100000 + 5000] ^= 1
    path.write_bytes(content)
    found = by_name(path, {"sshs_model_hash": model, "sshs_legacy_hash": legacy})
    assert [found[name].verdict for name in ("sshs_model_hash", "sshs_legacy_hash")] == ["wrong", "wrong"]


def test_a_small_file_has_the_legacy_hash_of_nothing(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    found = by_name(tmp_path / "a.safetensors", {})
    assert found["sshs_legacy_hash"].value == sha256(b"").hexdigest()[:8]


def test_a_header_of_more_than_a_mebibyte_leaves_the_legacy_hash_unchecked(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors", {"ss_long": "x" * 0x100000})
    found = by_name(tmp_path / "a.safetensors", {"sshs_legacy_hash": "12345678"})
    assert (found["sshs_legacy_hash"].value, found["sshs_legacy_hash"].verdict) == (None, "not checked")


@pytest.mark.parametrize("right", [True, False])
def test_a_file_of_the_hubs_cache_is_held_against_its_name(right: bool, tmp_path: Path) -> None:
    path = written(tmp_path, {})
    name = sha256(path.read_bytes() if right else b"other").hexdigest()
    (tmp_path / "blobs").mkdir()
    blob = path.rename(tmp_path / "blobs" / name)
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert by_name(link, {})["sha256"].verdict == ("right" if right else "wrong")


def test_stored_hashes_can_be_shown_unchecked() -> None:
    (only,) = unchecked({"sshs_model_hash": "abc", "other": "x"})
    assert (only.name, only.value, only.stored, only.verdict) == ("sshs_model_hash", None, "abc", "not checked")
