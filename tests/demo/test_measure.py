"""Measuring a base: the scenes it is asked for, the shares, and the program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorica.demo.drawing import Scene, draw
from lorica.demo.measure import Trial, accuracy_of, breakdown, kind_of, main, scenes_to_ask, try_scenes
from lorica.demo.score import Reading, read_picture
from lorica.demo.words import UNSEEN
from lorica.generating.sampling import SamplingSettings
from tiny_base import save_tiny_base

HEART = Scene("heart", "red", "white", "large", ((30.0, 33.0),))
FISH = Scene("fish", "blue", "sand", "small", ((15.0, 33.0), (48.0, 20.0)))
STRIPED = Scene("star", "teal", "peach", "large", ((30.0, 33.0),), "striped")


def test_scenes_are_the_same_each_time_and_keep_to_their_group() -> None:
    seen, unseen = (scenes_to_ask(40, unseen=unseen, single=True) for unseen in (False, True))
    assert seen == scenes_to_ask(40, unseen=False, single=True)
    assert not any((scene.shape, scene.color) in UNSEEN for scene in seen)
    assert all((scene.shape, scene.color) in UNSEEN for scene in unseen)
    assert all(len(scene.centers) == 1 and scene.pattern == "plain" for scene in seen)
    assert {kind_of(scene) for scene in scenes_to_ask(200, unseen=False, single=False)} >= {
        "2 figures", "3 figures", "large plain", "small plain", "large striped", "large outlined",
    }  # fmt: skip


def test_a_trial_is_right_only_in_everything() -> None:
    right = read_picture(draw(HEART))
    assert Trial(HEART, right).right
    for changed in (
        Reading("star", "red", "white", 1, 0.9),
        Reading("heart", "pink", "white", 1, 0.9),
        Reading("heart", "red", "cream", 1, 0.9),
        Reading("heart", "red", "white", 2, 0.9),
        Reading(None, "red", "white", 1, 0.6),
    ):
        assert not Trial(HEART, changed).right


def test_shares_and_breakdown_count_each_thing() -> None:
    trials = [Trial(scene, read_picture(draw(scene))) for scene in (HEART, FISH, STRIPED)]
    trials.append(Trial(HEART, Reading("heart", "pink", "white", 1, 0.9)))
    shares = accuracy_of(trials)
    assert (shares.pictures, shares.right, shares.shape, shares.color) == (4, 0.75, 1.0, 0.75)
    assert breakdown(trials, lambda scene: scene.shape) == {"fish": "1/1", "heart": "1/2", "star": "1/1"}
    assert breakdown(trials, kind_of) == {"2 figures": "1/1", "large plain": "1/2", "large striped": "1/1"}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_program_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, output = save_tiny_base(tmp_path / "base"), tmp_path / "figures.json"
    main(["--model", str(base), "--pictures", "3", "--steps", "2", "--output", str(output)])
    figures = json.loads(output.read_text(encoding="utf-8"))
    assert figures["seen"]["pictures"] == figures["never seen"]["pictures"] == 3
    assert (figures["seen"]["target"], figures["never seen"]["target"]) == (0.9, 0.75)
    assert figures["steps"] == 2
    assert "never seen" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_scenes_are_asked_for_by_their_captions(bundled: Path) -> None:
    """The bundled base draws what is asked: a small sample of what ``python -m lorica.demo.measure`` measures."""
    from lorica.demo.measure import GUIDANCE, SCHEDULER
    from lorica.generating.run import prepare_pipeline
    from lorica.generating.schedulers import use_scheduler

    pipeline = prepare_pipeline(str(bundled), device="cpu", dtype="float32")
    use_scheduler(pipeline, SCHEDULER)
    scenes = scenes_to_ask(10, unseen=False, single=True)
    trials = try_scenes(pipeline, scenes, SamplingSettings(steps=20, guidance=GUIDANCE, batch_size=10))
    assert accuracy_of(trials).right >= 0.6
