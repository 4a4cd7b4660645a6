"""``--dry_run``: the plan is that of the run, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorica.cli.main import run
from lorica.errors import DataError
from lorica.training.config.config import RunConfig
from lorica.training.progress import Reporter
from lorica.training.rehearsal import rehearse
from lorica.training.run import open_session
from lorica.training.setup import make_accelerator

Settings = Callable[..., RunConfig]


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the estimate of memory, which test_memory.py looks at and which takes a while."""
    from lorica.training.memory.estimate import Memory

    memory = Memory(base=3, adapter=5, step=7, encoding=11)
    monkeypatch.setattr("lorica.training.setup.estimate_memory", lambda *_: memory)


@pytest.mark.parametrize("buckets", [False, True])
def test_the_plan_is_that_of_the_run(settings: Settings, without_memory: None, buckets: bool) -> None:
    config = settings(
        max_train_steps=None, num_train_epochs=7, use_aspect_ratio_buckets=buckets, train_text_encoder=True
    )
    plan = rehearse(config, quiet=True)
    assert not config.output_dir.exists()
    config.output_dir.mkdir()
    session = open_session(config, make_accelerator(config), Reporter(quiet=True))
    assert plan.plan == session.loop.plan
    trained = {name: parameter.numel() for name, parameter in session.loop.trainable.by_component().items()}
    assert plan.trained == trained
    expected = {
        frame: len(members) for frame, members in (session.loop.dataset.buckets or {(32, 32): (0,) * 5}).items()
    }
    assert {(width, height): count for width, height, count in plan.buckets} == expected
    assert plan.epochs == pytest.approx(7, abs=0.5)
    session.close()


def test_nothing_is_written_not_even_into_the_cache(
    settings: Settings, without_memory: None, tmp_path: Path, own_cache: Path
) -> None:
    before = files_in(tmp_path)
    rehearse(settings(report_to="tensorboard"), quiet=True)
    assert files_in(tmp_path) == before
    assert list(own_cache.iterdir()) == []


def test_what_cannot_be_read_is_listed(settings: Settings, without_memory: None, pictures: Path) -> None:
    (pictures / "green.png").write_bytes(b"no picture")
    plan = rehearse(settings(), quiet=True)
    assert plan.pictures == 4
    assert [Path(name).name for name in plan.refused] == ["green.png"]
    assert "green.png" in plan.describe()
    for path in pictures.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of the 5 pictures can be read; the first: "):
        rehearse(settings(), quiet=True)


def test_time_is_that_of_all_steps(settings: Settings, without_memory: None) -> None:
    plan = rehearse(settings(max_train_steps=1000), quiet=True)
    assert plan.seconds > 1000 * plan.seconds_a_step > 0
    assert rehearse(settings(max_train_steps=1), quiet=True).plan.steps == 1


def test_the_command_prints_it_as_text_and_as_json(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text(settings().to_toml())
    assert run(["train", str(tmp_path / "run.toml"), "--dry_run", "--json"]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert facts["pictures"] == 5
    assert facts["plan"] == {"steps": 7, "samples_a_step": 2, "processes": 1}
    assert facts["memory"]["peak_bytes"] > facts["memory"]["base_bytes"] > 10_000
    assert facts["refused"] == {}
    plan = rehearse(settings(), quiet=True)
    monkeypatch.setattr("lorica.training.rehearsal.rehearse", lambda _: plan)
    assert run(["train", str(tmp_path / "run.toml"), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.strip() == plan.describe()
    assert "steps      7 of 2 samples; every picture is seen 2.3 times" in shown
    assert "Nothing was written." in shown
    assert not (tmp_path / "out").exists()
