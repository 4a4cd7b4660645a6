"""``lorica inspect``: what is shown, what is printed for programs, and the exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lorica
from lorica.adapters import Adapter, LoRA
from lorica.cli.main import run
from lorica.models import FAMILIES
from lorica.tools.digests import Digests


@pytest.fixture
def file(tmp_path: Path) -> Path:
    layers = {
        component: {
            path: LoRA(torch.randn(2, shape[1]), torch.randn(shape[0], 2), 1.0)
            for path, shape in shapes.items()
            if path.endswith(("attn2.to_k", "mlp.fc1"))
        }
        for component, shapes in FAMILIES["bundled"].target.components.items()
    }
    metadata = {"modelspec.trigger_phrase": "sks", "ss_tag_frequency": '{"1_x": {"a": 3}}'}
    path = lorica.write(Adapter(layers, metadata), tmp_path / "a.safetensors", format="kohya")
    save_file(load_file(path), path, {**metadata, "sshs_model_hash": "0" * 64})  # the hash of some other file
    return path


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_a_person_reads_what_it_is_first(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(file)]) == 0
    text = shown(capsys)
    assert text.startswith("a.safetensors is a LoRA for the bundled model")
    assert "Put “sks” into the prompt." in text
    assert f"lorica generate --base bundled --lora {file} --prompt 'sks, ...'" in text
    assert "NOT what the file says" in text
    assert text.index("Put “sks”") < text.index("rank 2")
    assert "Words of the captions a 3" in text


def test_a_program_reads_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(file), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["base"]["name"] == "bundled"
    assert {each["name"]: each["verdict"] for each in facts["hashes"]}["sshs_model_hash"] == "wrong"
    assert facts["components"][0]["norm"] > 0


def test_norms_and_hashes_can_be_left_out(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(file), "--json", "--no_norms", "--no-hashes"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["components"][0]["norm"] is None
    assert [each["verdict"] for each in facts["hashes"]] == ["not checked"]


def test_how_it_fits_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(file), "--model", "bundled"]) == 0
    assert re.match(
        r"a.safetensors fits the bundled model: all of its \d+ modules have their place there\.", shown(capsys)
    )
    assert run(["inspect", str(file), "--model", "sdxl"]) == 1
    text = shown(capsys)
    assert re.match(
        r"a.safetensors does not fit Stable Diffusion XL: none of its \d+ modules has a place there\.", text
    )
    assert "What does not fit Stable Diffusion XL" in text
    assert "lorica generate" not in text  # no advice to use it all the same
    assert run(["inspect", str(file), "--model", "sdxl", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["fit"]["whole"] is False


def test_a_file_that_fits_in_part_does_not_fit(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = lorica.read(file)
    odd = {**adapter.components["unet"], "down_blocks.0.nowhere": LoRA(torch.ones(2, 5), torch.ones(7, 2))}
    other = Adapter({**adapter.components, "unet": odd})
    lorica.write(other, file.with_name("b.safetensors"))
    assert run(["inspect", str(file.with_name("b.safetensors")), "--model", "bundled"]) == 1
    count = len(adapter)
    assert f"b.safetensors does not fit the bundled model: {count} of its {count + 1} modules do." in shown(capsys)
    save_file({**load_file(file), "lora_unet_x.alpha": torch.ones(())}, file)
    assert run(["inspect", str(file), "--model", "bundled"]) == 1
    assert "all of its modules do, but 1 key of the file cannot be used there." in shown(capsys)


def test_a_folder_of_files_that_do_not_fit_exits_1(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.with_name("b.safetensors").write_bytes(file.read_bytes())
    assert [run(["inspect", str(file.parent), "--model", model]) for model in ("bundled", "sdxl")] == [0, 1]


def test_all_metadata_is_shown_when_asked_for(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(file), "--metadata"]) == 0
    assert "modelspec.trigger_phrase sks" in shown(capsys)


def test_unused_keys_are_shown(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({**load_file(file), "lora_unet_x.alpha": torch.ones(())}, file)
    assert run(["inspect", str(file)]) == 0
    assert "1 keys of which nothing can be made lora_unet_x.alpha" in shown(capsys)


def test_a_file_that_cannot_be_used_gives_exit_code_2(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(file)
    tensors[next(key for key in tensors if "up" in key)][0] = float("nan")
    save_file(tensors, file)
    assert run(["inspect", str(file)]) == 2
    assert "It cannot be used as it is." in shown(capsys)


def test_a_broken_file_gives_one_paragraph_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"<html>no such page</html>")
    assert run(["inspect", str(tmp_path / "a.safetensors")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "it is a web page (HTML)" in captured.err


def test_hashing_begins_at_once_and_a_broken_file_ends_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Digests] = []

    class Noted(Digests):
        def __init__(self, path: Path) -> None:
            begun.append(self)
            super().__init__(path)

    monkeypatch.setattr("lorica.cli.inspect.Digests", Noted)
    assert run(["inspect", str(file), "--no_hashes"]) == 0
    assert not begun
    file.with_name("b.safetensors").write_bytes(file.read_bytes()[:-1])
    assert [run(["inspect", str(path)]) for path in (file, file.with_name("b.safetensors"))] == [0, 2]
    assert [digests._thread.is_alive() for digests in begun] == [False, False]


def test_a_folder_gives_a_line_for_each_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "deep").mkdir()
    file.rename(file.parent / "deep" / "b.safetensors")
    (file.parent / "c.safetensors").write_bytes(b"")
    assert run(["inspect", str(file.parent), "--model", "bundled"]) == 2  # one of them is broken
    text = shown(capsys)
    assert "1 adapters in" in text
    assert "c.safetensorsisempty" in text.replace(" ", "")  # a long folder breaks the line anywhere
    assert run(["inspect", str(file.parent), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert [Path(facts["source"]).name for facts in found["files"]] == ["b.safetensors"]
    assert list(found["broken"]) == [str(file.parent / "c.safetensors")]


def test_a_folder_around_one_file_is_that_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(file.parent), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"] == str(file)


FOLDED = pytest.mark.xfail(reason="an alpha that is folded into up is proved by torch's arithmetic", strict=True)


@pytest.mark.parametrize("name", ["kohya", pytest.param("diffusers", marks=FOLDED)])
def test_an_ordinary_file_is_told_without_torch(name: str, file: Path, tmp_path: Path) -> None:
    other = lorica.write(lorica.read(file), tmp_path / "b.safetensors", format=name)
    code = (
        "import sys; from lorica.cli.main import run; from lorica.cli.postponed import is_postponed\n"
        f"run(['inspect', {str(other)!r}, '--model', 'bundled'])\n"
        "slow = ('torch.nn.modules', 'diffusers', 'transformers', 'huggingface_hub')\n"
        "print(is_postponed('torch'), [name for name in slow if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True []"


def test_the_program_itself_answers(file: Path) -> None:
    command = [sys.executable, "-m", "lorica", "inspect", str(file), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert json.loads(done.stdout)["format"] == "kohya"
    assert done.stderr == ""
