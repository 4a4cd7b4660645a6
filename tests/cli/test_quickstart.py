"""``lorica quickstart``: the options, the closing paragraph, and that the commands it names exist."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from lorica.cli.generate import command as generate
from lorica.cli.main import run
from lorica.cli.quickstart import closing, program_name
from lorica.cli.train import command as train
from lorica.demo.quickstart import QuickstartReport

REPORT = QuickstartReport(
    seconds=81.4,
    seconds_in_all=140.2,
    steps=240,
    final_loss=0.07,
    adapter="quickstart/pytorch_lora_weights.safetensors",
    subject_score_base=0.05,
    subject_score_adapter=0.95,
    other_score_base=0.9,
    other_score_adapter=0.85,
    pictures_per_score=20,
    base="bundled",
    word="zorblin",
    diffusers_difference=None,
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, str]]:
    """What the quickstart is called with, in place of running it."""
    seen: list[tuple[Path, str]] = []

    def quickstart(folder: Path, *, base: str) -> QuickstartReport:
        seen.append((folder, base))
        return REPORT

    monkeypatch.setattr("lorica.demo.quickstart.quickstart", quickstart)
    return seen


def test_it_runs_without_any_option(calls: list[tuple[Path, str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quickstart"]) == 0
    assert calls == [(Path("quickstart"), "bundled")]
    told = capsys.readouterr().out
    for fact in ("zorblin", "81 s", "240 steps", "5%", "95%", "90%", "85%", "comparison.png", REPORT.adapter):
        assert fact in told


def test_options_and_json(calls: list[tuple[Path, str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quickstart", "--output-dir", "elsewhere", "--base", "models/x", "--json"]) == 0
    assert calls == [(Path("elsewhere"), "models/x")]
    assert json.loads(capsys.readouterr().out)["subject_score_adapter"] == 0.95


def test_the_commands_it_names_can_be_parsed() -> None:
    lines = [shlex.split(line) for line in closing(REPORT, Path("quickstart")).splitlines() if program_name() in line]
    commands = {"generate": generate, "train": train}
    assert [line[1] for line in lines] == ["generate", "generate", "train"]
    for line in lines:
        commands[line[1]].make_context(line[1], line[2:])


def test_the_commands_that_it_suggests_are_quoted() -> None:
    report = replace(REPORT, adapter="my quickstart/it's.safetensors", base="a base")
    lines = [line for line in closing(report, Path("my quickstart")).splitlines() if "--lora" in line]
    words = [shlex.split(line) for line in lines]
    assert all(line[line.index("--lora") + 1] == "my quickstart/it's.safetensors" for line in words)
    assert all(line[line.index("--base") + 1] == "a base" for line in words)
