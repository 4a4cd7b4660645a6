"""A tiny pipeline of the real classes, pictures to train on, and settings that finish in a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lorica.training.config.config import RunConfig
from lorica.training.progress import Reporter
from lorica.training.run import open_session
from lorica.training.session import Session
from lorica.training.setup import make_accelerator
from tiny_training import stable_diffusion, write_pictures


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's cache out of the tests, and the tests out of it."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LORICA_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def pipeline_with() -> Callable[[str], Any]:
    """Make a tiny pipeline that predicts what is asked for."""
    return stable_diffusion


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion pipeline with random weights, saved in diffusers' format."""
    folder = tmp_path_factory.mktemp("base")
    stable_diffusion().save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five pictures, each with its caption beside it; the last two are not square."""
    return write_pictures(tmp_path / "pictures")


@pytest.fixture
def settings(base: Path, pictures: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """Make settings: seven steps of two, nothing drawn; anything can be overridden."""

    def make(**changes: Any) -> RunConfig:
        values: dict[str, Any] = {
            "pretrained_model_name_or_path": str(base),
            "train_data_dir": pictures,
            "output_dir": tmp_path / "out",
            "train_batch_size": 2,
            "max_train_steps": 7,
            "learning_rate": 1e-2,
            "rank": 3,
            "num_validation_images": 0,
        }
        return RunConfig(**{**values, **changes})

    return make


@pytest.fixture
def opened(settings: Callable[..., RunConfig]) -> Iterator[Callable[..., Session]]:
    """Make sessions and close them."""
    made: list[Session] = []

    def make(**changes: Any) -> Session:
        config = settings(**changes)
        config.output_dir.mkdir(exist_ok=True)
        made.append(open_session(config, make_accelerator(config), Reporter(quiet=True)))
        return made[-1]

    yield make
    for session in made:
        session.close()
