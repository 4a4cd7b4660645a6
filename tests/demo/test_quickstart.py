"""The quickstart: what it leaves, what it reports, and on the bundled base, that it works."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

import lorica
from lorica.demo.comparison import STRENGTHS, with_diffusers
from lorica.demo.quickstart import comparison_prompts, ordinary_scenes, quickstart, subject_prompts
from lorica.demo.subject import ORDINARY, WORD
from lorica.demo.words import BACKGROUNDS
from lorica.generating.sampling import SamplingSettings
from tiny_base import save_tiny_base

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORICA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw in a moment: what tiny bases draw is noise anyway."""
    monkeypatch.setattr("lorica.demo.quickstart.SETTINGS", SamplingSettings(steps=2, guidance=3.0, batch_size=5))


@pytest.mark.usefixtures("few_steps")
def test_it_leaves_everything_it_promises(tmp_path: Path) -> None:
    base, folder = save_tiny_base(tmp_path / "base"), tmp_path / "quickstart"
    report = quickstart(folder, base=str(base), steps=3, scored=2, quiet=True)
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == asdict(report)
    assert (report.steps, report.pictures_per_score, report.base, report.word) == (3, 2, str(base), WORD)
    assert 0 < report.seconds < report.seconds_in_all
    for score in ("subject_score_base", "subject_score_adapter", "other_score_base", "other_score_adapter"):
        assert 0 <= getattr(report, score) <= 1
    assert lorica.read(report.adapter).components.keys() >= {"unet"}
    assert len((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert len(list((folder / "pictures").glob("*.png"))) == 6 + ORDINARY
    for name in ("comparison.png", "loss.png"):
        with Image.open(folder / name) as picture:
            assert picture.width > 100


@pytest.mark.usefixtures("few_steps")
def test_it_can_be_run_again_in_the_same_folder(tmp_path: Path) -> None:
    base = save_tiny_base(tmp_path / "base")
    first, second = (quickstart(tmp_path / "q", base=str(base), steps=2, scored=1, quiet=True) for _ in range(2))
    assert first.final_loss == second.final_loss


@pytest.mark.usefixtures("few_steps")
def test_the_same_file_in_diffusers_gives_the_same_pictures(tmp_path: Path) -> None:
    """Measured: no pixel differs by more than 1 of 255."""
    if not with_diffusers():
        pytest.skip("PEFT is not installed")
    base = save_tiny_base(tmp_path / "base")
    report = quickstart(tmp_path / "q", base=str(base), steps=3, scored=1, quiet=True)
    assert report.diffusers_difference is not None
    assert report.diffusers_difference <= 1 / 255


def test_the_subject_is_asked_for_on_every_background_and_the_comparison_shows_other_things_too() -> None:
    assert {prompt.split()[-2] for prompt in subject_prompts(12)} == set(BACKGROUNDS)
    assert all(WORD in prompt for prompt in subject_prompts(20))
    assert ordinary_scenes(20) == ordinary_scenes(20)
    assert {WORD in prompt for prompt in comparison_prompts()} == {True, False}
    assert list(STRENGTHS.values()) == [0.0, 0.5, 1.0]


@pytest.mark.slow
def test_on_the_bundled_base_the_subject_is_learned_and_the_rest_is_kept(bundled: Path, tmp_path: Path) -> None:
    """Scored on 120 pictures each: on 20, one picture is 5 points, and a run that keeps the rest may look otherwise."""
    assert bundled.is_dir()
    report = quickstart(tmp_path / "quickstart", scored=120, quiet=True)
    assert report.subject_score_base <= 0.2
    assert report.subject_score_adapter >= 0.8
    assert report.other_score_adapter >= report.other_score_base - 0.1
