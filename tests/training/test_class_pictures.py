"""Pictures of the class that lack are drawn by the base model, each from a seed of its own, before a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lorica.errors import DataError
from lorica.training import class_pictures
from lorica.training.class_pictures import missing_pictures
from lorica.training.config.config import RunConfig
from lorica.training.progress import Reporter
from lorica.training.rehearsal import rehearse
from lorica.training.run import train
from lorica.training.setup import draw_class_pictures, make_accelerator
from tiny_training import write_pictures

Settings = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_pictures, "STEPS", 2)


@pytest.fixture
def wanting(settings: Settings, tmp_path: Path) -> Settings:
    """Make settings of a run with pictures of the class, by default three in a folder that is not there yet."""

    def make(**changes: Any) -> RunConfig:
        values = {"class_data_dir": tmp_path / "new" / "class", "class_prompt": "a thing", "num_class_images": 3}
        return settings(with_prior_preservation=True, **{**values, **changes})

    return make


def draw(config: RunConfig) -> dict[str, bytes]:
    draw_class_pictures(config, make_accelerator(config), Reporter(quiet=True))
    return {path.name: path.read_bytes() for path in sorted((config.class_data_dir or Path()).iterdir())}


def test_what_lacks_is_drawn_and_says_how(wanting: Settings) -> None:
    config = wanting(seed=5)
    drawn = draw(config)
    assert list(drawn) == ["class-0000.png", "class-0001.png", "class-0002.png"]
    assert len(set(drawn.values())) == 3
    with Image.open((config.class_data_dir or Path()) / "class-0002.png") as picture:
        assert picture.info == {"prompt": "a thing", "seed": "7", "steps": "2", "guidance": "7.5"}
    assert draw(config) == drawn  # there are enough now


def test_drawing_that_was_stopped_goes_on_as_if_it_had_not(wanting: Settings, tmp_path: Path) -> None:
    whole = draw(wanting())
    config = wanting(class_data_dir=tmp_path / "stopped")
    draw(wanting(class_data_dir=tmp_path / "stopped", num_class_images=2))
    (tmp_path / "stopped" / "class-0000.png").unlink()
    (tmp_path / "stopped" / ".class-0000.png.01ab.part").write_bytes(b"half")  # what a kill leaves
    assert draw(config) == whole


def test_own_pictures_count_and_stay(wanting: Settings, tmp_path: Path) -> None:
    own = write_pictures(tmp_path / "class", 2)
    before = {path.name for path in own.iterdir()}
    assert set(draw(wanting(class_data_dir=own))) == before | {"class-0000.png"}


@pytest.mark.parametrize(("own", "asked", "missing"), [(2, None, 0), (0, None, 100), (2, 5, 3), (2, 1, 0), (0, 4, 4)])
def test_how_many_lack(wanting: Settings, tmp_path: Path, own: int, asked: int | None, missing: int) -> None:
    if own:
        (tmp_path / "new").mkdir()
        write_pictures(tmp_path / "new" / "class", own)
    assert missing_pictures(wanting(num_class_images=asked)) == missing


def test_a_run_draws_them_and_trains_on_them(wanting: Settings) -> None:
    config = wanting(max_train_steps=1)
    train(config, quiet=True)
    assert len(list((config.class_data_dir or Path()).glob("*.png"))) == 3


def test_a_dry_run_draws_nothing_and_says_so(wanting: Settings, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    write_pictures(tmp_path / "new" / "class", 2)
    with pytest.raises(DataError, match=r"2 class pictures .* asks for 3.*a run draws the rest.*a dry run does not"):
        rehearse(wanting(), quiet=True)
    assert len(list((tmp_path / "new" / "class").glob("*.png"))) == 2


def test_nothing_is_drawn_without_a_prompt(wanting: Settings, tmp_path: Path) -> None:
    config = wanting(class_prompt=None)
    draw_class_pictures(config, make_accelerator(config), Reporter(quiet=True))
    assert not (tmp_path / "new").exists()


def test_pictures_to_learn_from_that_are_missing_are_told_first(wanting: Settings, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        draw(wanting(train_data_dir=tmp_path / "nowhere"))
    assert not (tmp_path / "new").exists()
