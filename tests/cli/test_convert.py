"""``lorica convert``: what is said, what is printed for programs, and the exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lorica
from lorica.adapters import Adapter, LoCon
from lorica.cli.convert import parse_rank
from lorica.cli.main import run
from lorica.errors import ConfigError
from lorica.models import FAMILIES


def sample() -> Adapter:
    torch.manual_seed(2)
    shapes = FAMILIES["bundled"].target.components["unet"]
    layers = {
        path: LoCon(torch.randn(2, shape[1], 1, 1), torch.randn(2, 2, *shape[2:]), torch.randn(shape[0], 2, 1, 1))
        for path, shape in shapes.items()
        if path.endswith("resnets.0.conv1")
    }
    return Adapter({"unet": layers})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return lorica.write(sample(), tmp_path / "in.safetensors", format="kohya")


def test_what_became_a_lora_is_said(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(file), str(tmp_path / "out.safetensors"), "--to", "diffusers"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{len(sample())} locon layers became plain LoRA by exact factors")
    assert last == (
        f"Wrote {tmp_path / 'out.safetensors'} in diffusers format: {len(sample())} modules from kohya format."
    )


def test_the_error_of_each_approximated_layer_is_printed(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out.safetensors")
    assert run(["convert", str(file), out, "--to", "diffusers", "--approximate", "rank=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Relative error of each" in lines[0]
    assert len(lines) == len(sample()) + 2
    told = {line.split()[3]: line.split()[:3] for line in lines[1:-1]}
    assert told.keys() == {f"{component}.{path}" for component, path, _ in sample().layers()}
    assert all(0 < float(error) < 1 and (word, rank) == ("rank", "1") for error, word, rank in told.values())


def test_nothing_changed_is_said_too(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(file), str(tmp_path / "out.safetensors"), "--to", "kohya"]) == 0
    assert capsys.readouterr().out.endswith("and it holds the same tensors bit for bit.\n")
    assert run(["convert", str(file), str(tmp_path / "out.safetensors"), "--to", "kohya", "--dtype", "bf16"]) == 0
    assert "bit for bit" not in capsys.readouterr().out


def test_a_program_reads_json(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(file), str(tmp_path / "out.safetensors"), "--to", "diffusers", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["path"], done["format"], done["to"]) == (str(tmp_path / "out.safetensors"), "kohya", "diffusers")
    assert all(change["exact"] for change in done["changed"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option '--to'"),
        (["--to", "khoya"], "unknown format 'khoya'. Did you mean 'kohya'"),
        (["--to", "kohya", "--approximate", "much"], "--approximate takes rank=N"),
        (["--to", "kohya", "--model", "sdx"], "Did you mean 'sdxl'"),
    ],
)
def test_what_makes_no_sense_gives_one_paragraph_and_exit_code_2(
    arguments: list[str], message: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["convert", str(file), str(tmp_path / "out.safetensors"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(("text", "rank"), [("rank=32", 32), ("8", 8)])
def test_a_rank_is_read(text: str, rank: int) -> None:
    assert parse_rank(text) == rank


@pytest.mark.parametrize("text", ["rank=0", "rank=", "rank=-3", "rank=2.5", "energy=0.9", ""])
def test_what_is_no_rank_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="takes rank=N"):
        parse_rank(text)


def test_the_program_itself_converts(file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lorica", "convert", str(file), str(tmp_path / "out.safetensors"), "--to", "kohya"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
    assert lorica.read(tmp_path / "out.safetensors") == sample()
