from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

from lorica.errors import FileError
from lorica.formats.storage.files import load, save
from lorica.formats.storage.sources import choose_file, locate, open_source


def touch(folder: Path, *names: str) -> None:
    for name in names:
        save({"a": torch.ones(1)}, folder / name, {"name": name})


def test_a_file_a_folder_and_a_state_dict_are_opened(tmp_path: Path) -> None:
    touch(tmp_path, "some.safetensors")
    assert open_source(str(tmp_path / "some.safetensors")).metadata == {"name": "some.safetensors"}
    assert open_source(tmp_path).metadata == {"name": "some.safetensors"}
    assert open_source({"a": torch.ones(2)}).source == "the state dict"


def test_the_usual_name_wins_in_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.safetensors", "pytorch_lora_weights.safetensors", "z.safetensors")
    assert locate(tmp_path).name == "pytorch_lora_weights.safetensors"


def test_several_candidates_in_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "a.safetensors", "b.safetensors")
    with pytest.raises(FileError, match=r"holds 2 files that may be the adapter: a\.safetensors, b\.safetensors"):
        locate(tmp_path)


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("x")
    with pytest.raises(FileError, match="holds no adapter"):
        locate(tmp_path)


def test_a_missing_file_names_its_nearest_neighbours(tmp_path: Path) -> None:
    touch(tmp_path, "cereal_box.safetensors")
    with pytest.raises(FileError, match=r"In that folder: cereal_box\.safetensors"):
        locate(tmp_path / "cereal-box.safetensors")
    with pytest.raises(FileError, match="nor a folder"):
        locate(tmp_path / "nowhere" / "a.safetensors")


def test_a_safetensors_file_is_preferred_to_a_pickle() -> None:
    assert choose_file(["a.bin", "b.safetensors", "c.txt"], "here") == "b.safetensors"
    assert choose_file(["a.bin", "c.txt"], "here") == "a.bin"


def test_a_hub_id_is_fetched_by_name_or_by_the_only_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "other.safetensors")
    asked: list[tuple[str, str]] = []

    def download(repo: str, name: str) -> str:
        asked.append((repo, name))
        if not (tmp_path / name).exists():
            raise RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda _: ["README.md", "other.safetensors"])
    assert locate("user/repo/other.safetensors") == tmp_path / "other.safetensors"
    assert locate("user/repo") == tmp_path / "other.safetensors"
    assert asked[-1] == ("user/repo", "other.safetensors")
    with pytest.raises(FileError, match=r"user/repo has no file 'sub/missing\.safetensors'"):
        locate("user/repo/sub/missing.safetensors")


def test_a_hub_id_without_a_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(_repo: str, _name: str) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(FileError, match="the Hub cannot be reached"):
        locate("user/repo")


def test_a_folder_may_hold_one_file_of_any_case(tmp_path: Path) -> None:
    save({"a": torch.ones(1)}, tmp_path / "STYLE.SAFETENSORS", {})
    assert locate(tmp_path) == tmp_path / "STYLE.SAFETENSORS"


def test_a_link_and_a_name_with_spaces_are_followed(tmp_path: Path) -> None:
    save({"a": torch.ones(1)}, tmp_path / "mein stil ü.safetensors", {})
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "mein stil ü.safetensors")
    assert load(locate(str(tmp_path / "link.safetensors"))).tensors.keys() == {"a"}


def test_parts_of_a_file_are_refused_alone_and_together(tmp_path: Path) -> None:
    for number in (1, 2):
        save({"a": torch.ones(1)}, tmp_path / f"model-0000{number}-of-00002.safetensors", {})
    with pytest.raises(
        FileError, match=r"holds an adapter in 2 parts: model-00001-of-00002.safetensors, .* state dict"
    ):
        locate(tmp_path)
    with pytest.raises(FileError, match="is one of 2 parts"):
        locate(tmp_path / "model-00002-of-00002.safetensors")
    save({"a": torch.ones(1)}, tmp_path / "model-00001-of-00001.safetensors", {})
    assert locate(tmp_path / "model-00001-of-00001.safetensors").exists()
