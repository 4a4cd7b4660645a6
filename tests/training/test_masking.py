"""Masked losses from end to end: where they count, that flips and crops take them along, the cache, and resuming."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lorica.data.buckets import Size, SizeConditioning
from lorica.data.cache import Cache
from lorica.data.images import View
from lorica.data.items import Item
from lorica.data.masks import MaskSource
from lorica.errors import ConfigError, DataError, StateError
from lorica.rng import generator
from lorica.training.config.config import RunConfig
from lorica.training.dataset.dataset import Dataset
from lorica.training.dataset.encoding import encode_masks
from lorica.training.dataset.samples import Example
from lorica.training.objective.losses import Batch, sample_losses
from lorica.training.recipes.recipe import Latents
from lorica.training.run import train
from lorica.training.session import Session
from tiny_training import assert_resumes

Settings = Callable[..., RunConfig]
Opened = Callable[..., Session]
FP32_NOISE = 1e-5  # relative; the loss is a mean of some hundred squares near 1


def read(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return opened.copy()


@pytest.fixture
def masked(pictures: Path) -> Path:
    """Give a mask file to three pictures, an alpha channel to one, and nothing to ``red``."""
    (pictures / "mask").mkdir()
    for number, name in enumerate(("blue", "green", "orange")):
        size = read(pictures / f"{name}.png").size
        values = np.zeros((size[1], size[0]), np.uint8)
        values[4 + number : 20, : 9 + 3 * number] = 255  # more on the left
        Image.fromarray(values).save(pictures / "mask" / f"{name}.webp", lossless=True)
    picture = read(pictures / "purple.png").convert("RGBA")
    picture.paste((250, 0, 250, 0), (0, 0, 30, 11))
    picture.save(pictures / "purple.png")
    return pictures


def masks_of(dataset: Dataset) -> dict[str, tuple[torch.Tensor, ...]]:
    return {example.item.path.stem: tuple(example.masks) for example in dataset.examples}


def cells(values: np.ndarray) -> torch.Tensor:
    """The mean of each 4 x 4 pixels, written out."""
    rows = [[values[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean() / 255 for x in range(8)] for y in range(8)]
    return torch.tensor(rows, dtype=torch.float32)


def test_masks_lie_on_the_latents_as_on_the_pictures(opened: Opened, masked: Path) -> None:
    dataset = opened(masked_loss=True, center_crop=True, random_flip=True).loop.dataset
    found = masks_of(dataset)
    assert {name: len(masks) for name, masks in found.items()} == {
        "red": 0, "blue": 2, "green": 2, "orange": 2, "purple": 2,
    }  # fmt: skip
    expected = cells(np.asarray(read(masked / "mask" / "green.webp").convert("L")))
    plain, mirrored = found["green"]
    assert plain.shape == (1, 8, 8)
    torch.testing.assert_close(plain[0], expected)
    torch.testing.assert_close(mirrored[0], expected.flip(1))
    alpha = np.asarray(read(masked / "purple.png").getchannel("A"))[:, 18:50]  # the middle of 68 pixels
    torch.testing.assert_close(found["purple"][0][0], cells(alpha))


def test_each_random_cut_takes_its_mask_along(opened: Opened, masked: Path) -> None:
    """The mask of the pixels themselves, encoded beside the picture, is what the picture's own cut shows."""
    dataset = opened(masked_loss=True, random_crops=3, random_flip=True).loop.dataset
    masks = masks_of(dataset)["orange"]
    assert len(masks) == 6
    columns = [mask[0].sum(0) for mask in masks]
    assert not torch.equal(columns[0], columns[2])
    for plain, mirrored in zip(masks[::2], masks[1::2], strict=True):
        assert torch.equal(plain.flip(2), mirrored)


def test_the_drawn_view_has_the_mask_of_that_view() -> None:
    views = tuple(Latents(torch.full((4, 2, 3), float(number)), torch.zeros(4, 2, 3)) for number in range(5))
    sizes = tuple(SizeConditioning((9, 9), (number, 0), (8, 8)) for number in range(5))
    example = Example(Item(Path("a.png"), "a"), views, sizes, tuple(torch.full((1, 2, 3), float(n)) for n in range(5)))
    drawn = [example.draw(torch.Generator().manual_seed(seed)) for seed in range(30)]
    assert all(one.latents[0, 0, 0] == one.mask[0, 0, 0] == one.sizes[2] for one in drawn)
    assert len({one.mask[0, 0, 0].item() for one in drawn}) == 5


@pytest.mark.parametrize("changes", [{}, {"unmasked_weight": 0.3}, {"snr_gamma": 0.02, "loss_type": "huber"}], ids=str)
def test_the_loss_is_the_weighted_mean_written_out(
    opened: Opened, masked: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = opened(masked_loss=True, train_batch_size=5, center_crop=True, **changes).loop
    batches: list[Batch] = []

    def noted(recipe: Any, batch: Batch, *told: Any) -> torch.Tensor:
        batches.append(batch)
        return sample_losses(recipe, batch, *told)

    monkeypatch.setattr("lorica.training.loop.sample_losses", noted)
    report = next(loop.run(0, lambda: False))
    [batch] = batches
    row = loop.dataset.row(0, loop.plan, partial(generator, 0))
    time = loop.recipe.sample_time(5, generator(0, 0, "time"))
    expected = []
    for place, index in enumerate(row):
        example = loop.dataset.examples[index]
        with torch.no_grad(), loop.trainable.enabled(on=False):
            told = loop.dataset.conditioning([index], [torch.Generator()])
            one = Batch(batch.latents[place : place + 1], batch.noise[place : place + 1])
            noisy, target = loop.recipe.corrupt(one.latents, one.noise, time[place : place + 1])
            error = loop.recipe.predict(noisy, time[place : place + 1], told) - target
            whole = sample_losses(loop.recipe, one, time[place : place + 1], told, loop.objective).item()
        if not example.masks:
            expected.append(whole)
            continue
        least = changes.get("unmasked_weight", 0.0)
        weights = least + (1 - least) * example.masks[0]
        size = error[0].abs()
        losses = torch.where(size <= 0.1, size**2, 0.1 * (2 * size - 0.1)) if "loss_type" in changes else size**2
        mean = sum((losses[channel] * weights[0]).sum() for channel in range(4)) / (4 * weights.sum())
        share = loop.recipe.weigh(time[place : place + 1])
        expected.append(mean.item() * (1.0 if share is None else share.item()))
    assert report.loss == pytest.approx(sum(expected) / 5, rel=FP32_NOISE)


def test_what_the_mask_leaves_out_does_not_matter(opened: Opened, masked: Path, tmp_path: Path) -> None:
    """Only pictures with mask files: their black part may be anything, also in the gradient."""
    for name in ("red", "purple", "orange", "green"):
        (masked / f"{name}.png").unlink()
    loop = opened(masked_loss=True, train_batch_size=1).loop
    example = loop.dataset.examples[0]
    batch = Batch(example.views[0].mean[None], torch.randn(1, 4, 8, 8), area=example.masks[0][None])
    time, told = torch.tensor([500]), loop.dataset.conditioning([0], [torch.Generator()])
    with torch.no_grad():
        loss = sample_losses(loop.recipe, batch, time, told, loop.objective)
    predict = loop.recipe.predict
    black = example.masks[0] == 0
    assert black.any()
    loop.recipe.predict = lambda *args: predict(*args) + 100 * black
    with torch.no_grad():
        assert torch.equal(sample_losses(loop.recipe, batch, time, told, loop.objective), loss)


def test_a_run_with_masks_resumes_bit_for_bit(settings: Settings, masked: Path, tmp_path: Path) -> None:
    result = assert_resumes(settings, tmp_path, masked_loss=True, unmasked_weight=0.1, random_flip=True)
    plain = train(settings(random_flip=True, max_train_steps=3, output_dir=tmp_path / "plain"), quiet=True)
    assert result.adapter != plain.adapter


def test_another_mask_is_another_run(settings: Settings, masked: Path) -> None:
    train(settings(masked_loss=True, max_train_steps=1), quiet=True)
    with pytest.raises(StateError, match=r"unmasked_weight was 0\.0, is 0\.5"):
        train(settings(masked_loss=True, unmasked_weight=0.5, resume_from_checkpoint="latest"), quiet=True)
    with pytest.raises(StateError, match="masked_loss was True, is False"):
        train(settings(resume_from_checkpoint="latest"), quiet=True)
    Image.new("L", (32, 32), 77).save(masked / "mask" / "blue.webp", lossless=True)
    with pytest.raises(StateError, match=r"pictures and captions: 1 changed \(blue.png\)"):
        train(settings(masked_loss=True, resume_from_checkpoint="latest"), quiet=True)


def test_a_changed_mask_is_not_taken_from_the_cache(tmp_path: Path) -> None:
    cache, views = Cache(tmp_path / "cache"), [View()]

    def encoded(value: int, *, alpha: bool = False, rows: int = 4) -> torch.Tensor:
        path = tmp_path / f"{value}.png"
        Image.new("LA" if alpha else "L", (8, 8), (255, value) if alpha else value).save(path)
        source = MaskSource(path.read_bytes(), path, is_alpha=alpha)
        return encode_masks(source, (8, 8), Size(8, 8), views, rows, cache)[0]

    first = encoded(51)
    torch.testing.assert_close(first, torch.full((1, 4, 4), 0.2))
    assert torch.equal(encoded(51), first)
    assert not torch.equal(encoded(102), first)
    assert encoded(51, rows=2).shape == (1, 2, 2)
    torch.testing.assert_close(encoded(153, alpha=True), torch.full((1, 4, 4), 0.6))
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 4


def test_each_view_has_its_own_mask_in_the_cache(tmp_path: Path) -> None:
    Image.fromarray(np.arange(0, 128, 2, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.png")
    source = MaskSource((tmp_path / "a.png").read_bytes(), tmp_path / "a.png", is_alpha=False)
    views = [View(0.0, 0.0), View(1.0, 0.0), View(0.0, 0.0, flip=True)]
    for frame in (Size(8, 8), Size(8, 4)):
        first, again = (encode_masks(source, (8, 8), frame, views, 2, Cache(tmp_path / "cache")) for _ in range(2))
        assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
        assert not torch.equal(first[0], first[2])
        assert first[0].shape == (1, 2, 2 * frame.width // frame.height)


def test_masks_that_cannot_count_are_told(
    settings: Settings, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="masked_loss is set, but none of 5 pictures has a mask"):
        train(settings(masked_loss=True), quiet=True)
    (pictures / "mask").mkdir()
    Image.new("L", (32, 32), 0).save(pictures / "mask" / "red.png")
    train(settings(max_train_steps=1))
    assert "mask are not used; add --masked_loss to use them" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"the mask .*red\.png is black everywhere"):
        train(settings(masked_loss=True, overwrite_output_dir=True), quiet=True)
    Image.new("L", (32, 31), 9).save(pictures / "mask" / "red.png")
    Image.new("L", (32, 20), 9).save(pictures / "mask" / "blue.png")
    with pytest.raises(DataError, match=r"the mask .*blue\.png has 32x20 pixels but its picture 32x32"):
        train(settings(masked_loss=True, overwrite_output_dir=True), quiet=True)
    with pytest.raises(ConfigError, match="unmasked_weight is set, but masks do not count"):
        settings(unmasked_weight=0.2)


def test_masks_may_count_in_one_set_only(settings: Settings, masked: Path, opened: Opened, tmp_path: Path) -> None:
    Image.new("RGBA", (32, 32), (9, 9, 9, 9)).save(tmp_path / "other.png")
    (tmp_path / "more").mkdir()
    (tmp_path / "other.png").rename(tmp_path / "more" / "other.png")
    more = {"folder": tmp_path / "more", "caption": "x", "masked_loss": False}
    found = masks_of(opened(masked_loss=True, datasets=(more,)).loop.dataset)
    assert found["other"] == ()
    assert found["blue"]
