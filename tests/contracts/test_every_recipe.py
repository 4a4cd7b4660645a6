"""What holds for every recipe: it runs, it learns on one batch, it resumes bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lorica.training.config.config import RunConfig
from lorica.training.progress import Reporter
from lorica.training.recipes import RECIPES, load_recipe
from lorica.training.recipes.recipe import Recipe, RecipeSettings, Sampling
from lorica.training.run import open_session
from lorica.training.setup import make_accelerator
from tiny_training import SIDE, assert_resumes, stable_diffusion, write_pictures

TINY: dict[str, Callable[[], Any]] = {"sd": stable_diffusion}  # a recipe without an entry fails every test here
SETTINGS = RecipeSettings(device=torch.device("cpu"), dtype=torch.float32)

pytestmark = pytest.mark.parametrize("name", RECIPES)


@pytest.fixture
def settings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunConfig]:
    """Make settings for a tiny model of the recipe."""
    monkeypatch.setenv("LORICA_CACHE", str(tmp_path / "cache"))
    TINY[name]().save_pretrained(tmp_path / "base")
    write_pictures(tmp_path / "pictures")

    def make(**changes: Any) -> RunConfig:
        values: dict[str, Any] = {
            "pretrained_model_name_or_path": str(tmp_path / "base"),
            "train_data_dir": tmp_path / "pictures",
            "output_dir": tmp_path / "whole" / "out",
            "train_batch_size": 3,
            "max_train_steps": 5,
            "learning_rate": 1e-2,
            "num_validation_images": 0,
        }
        return RunConfig(**{**values, **changes})

    return make


def test_it_fits_its_own_pipeline_and_says_what_it_is(name: str) -> None:
    recipe = load_recipe(TINY[name](), SETTINGS)
    assert recipe.name == name
    assert {"modelspec.architecture", "modelspec.prediction_type"} <= recipe.describe().keys()
    assert recipe.side == SIDE
    assert all(not parameter.requires_grad for part in recipe.components.values() for parameter in part.parameters())


def test_shapes_and_types_are_those_of_the_protocol(name: str) -> None:
    recipe = load_recipe(TINY[name](), SETTINGS)
    mean, std = recipe.encode_picture(torch.zeros(3, SIDE, SIDE))
    assert mean.shape == std.shape
    assert mean.dtype == std.dtype == torch.float32
    time = recipe.sample_time(2, torch.Generator().manual_seed(0))
    assert time.shape == (2,)
    latents, noise = torch.stack([mean, mean]), torch.randn(2, *mean.shape)
    noisy, target = recipe.corrupt(latents, noise, time)
    told = {key: torch.stack([value, value]) for key, value in recipe.encode_text("a red circle").items()}
    predicted = recipe.predict(noisy, time, told)
    assert predicted.shape == target.shape == noisy.shape == latents.shape
    assert predicted.dtype == torch.float32


def test_identities_depend_on_what_they_are_of(name: str) -> None:
    pipeline = TINY[name]()
    before = load_recipe(pipeline, SETTINGS).identify()
    assert load_recipe(pipeline, SETTINGS).identify() == before
    trained = next(iter(load_recipe(pipeline, SETTINGS).components.values()))
    with torch.no_grad():
        next(trained.parameters()).view(-1)[0] += 1
    after = load_recipe(pipeline, SETTINGS).identify()
    assert (after.pictures, after.text) == (before.pictures, before.text)
    assert after.model != before.model


def test_it_learns_on_one_batch(settings: Callable[..., RunConfig]) -> None:
    config = settings()
    config.output_dir.mkdir(parents=True)
    session = open_session(config, make_accelerator(config), Reporter(quiet=True))
    losses = [next(session.loop.run(0, lambda: False)).loss for _ in range(40)]  # the same step, again and again
    session.close()
    assert losses[-1] < 0.5 * losses[0]


def test_it_resumes_bit_for_bit(settings: Callable[..., RunConfig], tmp_path: Path) -> None:
    assert_resumes(settings, tmp_path, stop=2, max_train_steps=5)


def test_it_draws_the_same_pictures_for_the_same_seeds(name: str) -> None:
    recipe: Recipe = load_recipe(TINY[name](), SETTINGS)
    sampling = Sampling(prompts=("a", "a"), seeds=(4, 5), steps=2, guidance=1.5, side=SIDE)
    first, second = ([picture.tobytes() for picture in recipe.draw(sampling)] for _ in range(2))
    assert first == second
    assert first[0] != first[1]
