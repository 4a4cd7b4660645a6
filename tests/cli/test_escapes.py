"""What files and names bring along reaches the terminal as escapes, on every road to it."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import torch

import lorica
from lorica.adapters import Adapter, LoRA
from lorica.cli.main import run
from lorica.models import FAMILIES
from tiny_pipelines import sd_pipeline

EVIL = "a[/b]\x1b[31mred\x07\u202ex\x9b"
SHOWN = r"a[/b]\x1b[31mred\x07\u202ex\x9b"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
CLI = Path(lorica.__file__).parent / "cli"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    shapes = FAMILIES["bundled"].target.components["unet"]
    path, shape = next((path, shape) for path, shape in shapes.items() if path.endswith("attn2.to_k"))
    layer = LoRA(torch.randn(2, shape[1]), torch.randn(shape[0], 2))
    metadata = {
        "modelspec.trigger_phrase": EVIL,
        "modelspec.description": EVIL,
        "modelspec.usage_hint": EVIL,
        "modelspec.architecture": EVIL,
        "ss_tag_frequency": json.dumps({"1_x": {EVIL: 3}}),
        "ss_steps": EVIL,
        "ss_network_module": f"lycoris{EVIL}",
        EVIL: EVIL,
        "sshs_model_hash": EVIL,
    }
    name = EVIL.replace("/", "")
    return lorica.write(Adapter({"unet": {path: layer}}, metadata), tmp_path / f"{name}.safetensors", metadata=metadata)


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert not CONTROL.search(text), CONTROL.findall(text)
    return "".join(text.split())


def test_inspect_escapes_everything(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(file), "--metadata", "--model", "bundled"]) in (0, 1, 2)
    text = printed(capsys)
    assert text.count(SHOWN) > 5
    assert "--lora$'" in text  # the command that it suggests finds the file in a shell


def test_a_folder_is_escaped_too(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.with_name(f"{EVIL.replace('/', '')}.bin").write_bytes(b"x")
    run(["inspect", str(file.parent)])
    assert SHOWN.replace("/", "") in printed(capsys)


def test_errors_and_results_are_escaped(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = EVIL.replace("/", "")
    assert run(["convert", str(file), str(tmp_path / f"out{name}.safetensors"), "--to", "kohya"]) == 0
    assert SHOWN.replace("/", "") in printed(capsys)
    for line in (
        ["inspect", str(tmp_path / f"{name}.pt")],
        ["generate", "--prompt", "x", "--lora", f"a.pt:{EVIL}"],
        ["generate", "--prompt", "x", "--grid", f"{EVIL}=1"],
        ["convert", str(file), "x.safetensors", "--to", EVIL],
        [EVIL],
        ["inspect", f"--{EVIL}"],
    ):
        assert run(line) == 2
        assert "x1b" in printed(capsys)


def test_the_table_of_a_pipeline_is_escaped(file: Path) -> None:
    pipe = sd_pipeline()
    loras = lorica.attach(pipe)
    path = next(path for path, _ in pipe.unet.named_modules() if path.endswith("attn2.to_k"))
    out, width = pipe.unet.get_submodule(path).weight.shape
    loras.load(Adapter({"unet": {path: LoRA(torch.zeros(2, width), torch.zeros(out, 2))}}), name=EVIL)
    for text in (str(loras.summary()), repr(loras)):
        assert not CONTROL.search(text)
        assert SHOWN in text


def test_no_verb_prints_past_the_place_that_escapes() -> None:
    for path in CLI.glob("*.py"):
        calls = (node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))
        names = {ast.unparse(call) for call in calls}
        assert path.name == "output.py" or not names & {"click.echo", "click.secho", "print"}, path.name
