"""Adapters of a folder by name: one file or an error that names all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import lorica
from lorica.errors import ConfigError, FileError, UnknownNameError
from lorica.runtime.prompt.lookup import find_adapter, short_name

FILES: dict[str, str] = {  # path to the title in the file
    "sample.safetensors": "",
    "sub/sample.safetensors": "",
    "both.safetensors": "",
    "both.pt": "",
    "one/x1.safetensors": "cats",
    "two/x2.safetensors": "cats",
    "two/x3.safetensors": "Ours",
    "mossy/pytorch_lora_weights.safetensors": "run of mossy",
    "paper/pytorch_lora_weights.safetensors": "",
    "paper/checkpoint-20/pytorch_lora_weights.safetensors": "",
    "A.safetensors": "",
    "deep/a.safetensors": "",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, title in FILES.items():
        path = tmp_path / "loras" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"x": torch.ones(1)}, path, {"modelspec.title": title})
    (tmp_path / "loras" / "paper" / "checkpoint-20" / "state.safetensors").touch()
    (tmp_path / "loras" / "paper" / "checkpoint-20" / "checkpoint.json").touch()
    return tmp_path / "loras"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("sample.safetensors", "sample.safetensors"),
        ("./sample.safetensors", "sample.safetensors"),
        ("sub/sample", "sub/sample.safetensors"),
        (r"sub\sample", "sub/sample.safetensors"),
        ("both.pt", "both.pt"),
        ("mossy", "mossy/pytorch_lora_weights.safetensors"),
        ("checkpoint-20", "paper/checkpoint-20/pytorch_lora_weights.safetensors"),
        ("paper/checkpoint-20", "paper/checkpoint-20/pytorch_lora_weights.safetensors"),
        ("Paper", "paper/pytorch_lora_weights.safetensors"),
        ("Ours", "two/x3.safetensors"),
        ("run of mossy", "mossy/pytorch_lora_weights.safetensors"),
        ("A", "A.safetensors"),
        ("a", "deep/a.safetensors"),
        ("Deep/A", "deep/a.safetensors"),
    ],
)
def test_a_name_finds_its_file(name: str, path: str, folder: Path) -> None:
    assert find_adapter(folder, name) == folder / path


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("sample", "sample.safetensors", "sub/sample.safetensors"),
        ("SAMPLE", "sample.safetensors", "sub/sample.safetensors"),
        ("both", "both.pt", "both.safetensors"),
        ("cats", "one/x1.safetensors", "two/x2.safetensors"),
        ("pytorch_lora_weights", "mossy/pytorch", "paper/checkpoint-20/pytorch"),
    ],
)
def test_a_name_of_several_files_is_refused_with_all_of_them(name: str, first: str, second: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name!r} is the name of . adapters: {first}.* and {second}"):
        find_adapter(folder, name)


def test_each_path_of_that_message_is_accepted(folder: Path) -> None:
    for path in FILES:
        assert find_adapter(folder, path) == folder / path


def test_an_unknown_name_is_told_with_the_short_names(folder: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown adapter 'mosy'\. Did you mean 'mossy'\? Known: A, .*, sample"):
        find_adapter(folder, "mosy")
    with pytest.raises(UnknownNameError) as unknown:
        find_adapter(folder, "state")
    assert "state" not in str(unknown.value).replace("'state'", "")
    assert short_name(folder / "two" / "x3.safetensors") == "x3"


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"there is no folder .*lorras"):
        lorica.prompt(None, "a cat", folder=tmp_path / "lorras")
