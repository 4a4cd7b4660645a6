"""Encoded once, kept on disk, and exactly what encoding anew gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from lorica.data.cache import Cache, CachedSequence
from lorica.data.items import find_items
from lorica.errors import DataError
from lorica.training.dataset.dataset import Dataset
from lorica.training.dataset.encoding import cache_line, load_dataset
from lorica.training.dataset.framing import Framing
from lorica.training.progress import Reporter
from lorica.training.recipes import StableDiffusion
from lorica.training.recipes.load import load_pipeline
from lorica.training.recipes.recipe import RecipeSettings


class Counting(StableDiffusion):
    """Counts what is really encoded."""

    pictures = texts = 0

    def encode_picture(self, pixels: torch.Tensor):  # noqa: ANN201
        self.pictures += 1
        return super().encode_picture(pixels)

    def encode_text(self, caption: str):  # noqa: ANN201
        self.texts += 1
        return super().encode_text(caption)


@pytest.fixture
def recipe(base: Path) -> Counting:
    return Counting(load_pipeline(base), RecipeSettings(device=torch.device("cpu"), dtype=torch.float32))


def load(recipe: Counting, pictures: Path, folder: Path, *, workers: int = 0, **changes: object) -> Dataset:
    recipe.pictures = recipe.texts = 0
    framing = {"side": 32, "crops": 3, "flip": True, "interpolation": "lanczos", "seed": 0, **changes}
    return load_dataset(
        find_items(pictures), recipe, Framing(**framing), Cache(folder), reporter=Reporter(quiet=True), workers=workers
    )


def told(dataset: Dataset, text: str) -> torch.Tensor:
    return dataset.texts.encoded[text]["states"]


def same(one: Dataset, two: Dataset) -> bool:
    pairs = zip(one.examples, two.examples, strict=True)
    return all(
        len(a.views) == len(b.views)
        and all(
            torch.equal(x, y)
            for left, right in zip(a.views, b.views, strict=True)
            for x, y in zip(left, right, strict=True)
        )
        and torch.equal(told(one, a.item.caption), told(two, b.item.caption))
        for a, b in pairs
    )


def test_a_second_run_encodes_nothing_and_gets_the_same(recipe: Counting, pictures: Path, tmp_path: Path) -> None:
    first = load(recipe, pictures, tmp_path / "one")
    assert (recipe.pictures, recipe.texts) == (3 * 2 + 2 * 6, 5)  # three squares, two with three cuts; each mirrored
    second = load(recipe, pictures, tmp_path / "one")
    assert (recipe.pictures, recipe.texts) == (0, 0)
    anew = load(recipe, pictures, tmp_path / "two", workers=2)
    assert recipe.pictures == 18
    assert same(first, second)
    assert same(first, anew)
    assert first.digest == second.digest


def test_a_change_invalidates_exactly_what_it_must(recipe: Counting, pictures: Path, tmp_path: Path) -> None:
    whole = load(recipe, pictures, tmp_path / "c")
    (pictures / "red.txt").write_text("another caption")
    changed = load(recipe, pictures, tmp_path / "c")
    assert (recipe.pictures, recipe.texts) == (0, 1)
    assert changed.digest != whole.digest
    Image.new("RGB", (32, 32), "pink").save(pictures / "blue.png")
    load(recipe, pictures, tmp_path / "c")
    assert (recipe.pictures, recipe.texts) == (2, 0)
    load(recipe, pictures, tmp_path / "c", flip=False)
    assert (recipe.pictures, recipe.texts) == (0, 0)
    load(recipe, pictures, tmp_path / "c", side=24)
    assert (recipe.pictures, recipe.texts) == (18, 0)
    load(recipe, pictures, tmp_path / "c", seed=1)
    assert (recipe.pictures, recipe.texts) == (12, 0)  # the cuts at random only
    with torch.no_grad():
        next(recipe._vae.parameters())[0] += 0.1
    load(recipe, pictures, tmp_path / "c")
    assert (recipe.pictures, recipe.texts) == (18, 0)


def test_a_mirrored_view_is_the_mirrored_picture(recipe: Counting, pictures: Path, tmp_path: Path) -> None:
    views = load(recipe, pictures, tmp_path / "c").examples[0].views
    assert not torch.allclose(views[0].mean, views[1].mean)


def test_a_broken_picture_is_named(recipe: Counting, pictures: Path, tmp_path: Path) -> None:
    (pictures / "green.png").write_bytes((pictures / "green.png").read_bytes()[:90])
    with pytest.raises(DataError, match=r"green\.png is broken or cut short"):
        load(recipe, pictures, tmp_path / "c")


def test_other_colours_are_encoded_anew(
    recipe: Counting, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(recipe, pictures, tmp_path / "one")
    monkeypatch.setattr("lorica.training.dataset.encoding.colour_version", lambda: "others")
    load(recipe, pictures, tmp_path / "one")
    assert (recipe.pictures, recipe.texts) == (18, 0)


def test_latents_are_not_held_in_memory(recipe: Counting, pictures: Path, tmp_path: Path) -> None:
    dataset = load(recipe, pictures, tmp_path / "one")
    example = dataset.examples[0]
    assert isinstance(example.views, CachedSequence)
    assert example.views[0] is not example.views[0]
    line = cache_line(dataset.examples, Cache(tmp_path / "one"))
    assert line.startswith("the latents of 18 views take 36.0 KB of the disk and none of the memory; the whole cache ")
    assert cache_line(load(recipe, pictures, tmp_path / "one", live=True).examples, Cache(None)).startswith(
        "pictures are"
    )
