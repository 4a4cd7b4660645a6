"""Pictures that are left out because they cannot be read, and pictures that are encoded each time they are seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lorica.data.buckets import Size
from lorica.data.decoding import load_picture
from lorica.data.images import View, fit, to_tensor
from lorica.data.items import Item
from lorica.data.masks import latent_mask
from lorica.errors import DataError
from lorica.training.config.config import RunConfig
from lorica.training.dataset.framing import Framing
from lorica.training.dataset.samples import LiveExample, draw_view
from lorica.training.progress import Reporter
from lorica.training.recipes.recipe import Latents
from lorica.training.run import open_session, train
from lorica.training.session import Session
from lorica.training.setup import make_accelerator
from tiny_training import assert_resumes

Settings = Callable[..., RunConfig]


class Pooling:
    """Stands for a recipe: latents are means of 4 x 4 pixels, without spread."""

    def encode_picture(self, pixels: torch.Tensor) -> Latents:
        mean = torch.nn.functional.avg_pool2d(pixels, 4)
        return Latents(mean, torch.zeros_like(mean))


@pytest.fixture
def bad(pictures: Path) -> Path:
    """Cut one picture short, and make another no picture."""
    (pictures / "green.png").write_bytes((pictures / "green.png").read_bytes()[:90])
    (pictures / "purple.png").write_text("nothing")
    return pictures


def test_bad_pictures_stop_a_run_or_are_left_out_and_named(
    settings: Settings, bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=r"green\.png is broken or cut short"):
        train(settings(max_train_steps=1), quiet=True)
    for number in range(2):  # the second run finds in the cache that the others can be read
        options: dict[str, Any] = {
            "use_aspect_ratio_buckets": bool(number),
            "output_dir": tmp_path / f"{number}" / "out",
        }
        result = train(settings(on_bad_image="skip", max_train_steps=1, **options))
        said = capsys.readouterr().err
        assert "2 of 5 pictures cannot be read and are left out: " in said
        assert f"{bad / 'green.png'}, {bad / 'purple.png'}" in said
        assert "| pictures | 3 |" in (result.output_dir / "README.md").read_text()
    for path in bad.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 5 pictures can be read; the first: .*blue\.png"):
        train(settings(on_bad_image="skip", output_dir=tmp_path / "none"), quiet=True)


def test_a_set_of_nothing_but_bad_pictures_is_named(settings: Settings, bad: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (bad / "green.png").rename(tmp_path / "more" / "x.png")
    more = {"folder": tmp_path / "more", "caption": "x"}
    with pytest.raises(DataError, match="the data set 'more' has no pictures"):
        train(settings(on_bad_image="skip", datasets=(more,)), quiet=True)


def test_a_run_without_a_cache_resumes_bit_for_bit_and_keeps_nothing(
    settings: Settings, tmp_path: Path, own_cache: Path
) -> None:
    result = assert_resumes(settings, tmp_path, no_cache=True, random_flip=True)
    assert not list(own_cache.rglob("*.safetensors"))
    cached = train(settings(random_flip=True, max_train_steps=3, output_dir=tmp_path / "cached"), quiet=True)
    assert cached.adapter != result.adapter


def test_middles_without_a_cache_are_the_middles_of_the_cache(settings: Settings) -> None:
    made: list[Session] = []
    for no_cache in (False, True):
        config = settings(center_crop=True, no_cache=no_cache)
        config.output_dir.mkdir(exist_ok=True)
        made.append(open_session(config, make_accelerator(config), Reporter(quiet=True)))
        made[-1].close()
    kept, live = (session.loop.dataset.examples[3] for session in made)
    with torch.no_grad():
        mean = live.recipe.encode_picture(to_tensor(picture_of(live.item, View()))).mean
    assert torch.equal(kept.views[0].mean, mean)
    assert live.draw(torch.Generator().manual_seed(3)).latents.shape == mean.shape


def picture_of(item: Item, view: View) -> Image.Image:
    return fit(load_picture(item.read(), item.path), 32, 32, view)


def test_a_live_cut_lies_anywhere_and_takes_the_mask_along(tmp_path: Path) -> None:
    """The mask is the picture, so what is drawn must be alike."""
    grey = np.random.default_rng(1).integers(1, 255, (16, 40), np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    (tmp_path / "mask").mkdir()
    Image.fromarray(grey).save(tmp_path / "mask" / "a.png")
    framing = Framing(side=16, crops=4, flip=True, interpolation="box", seed=0, live=True)
    example = LiveExample(
        item=Item(tmp_path / "a.png", "a", mask=tmp_path / "mask" / "a.png"),
        frame=Size(16, 16),
        framing=framing,
        recipe=Pooling(),
        has_mask=True,
    )
    seen = set()
    for seed in range(25):
        view = draw_view(torch.Generator().manual_seed(seed), center=False, flip=True)
        latents, sizes, mask = example.draw(torch.Generator().manual_seed(seed))
        left = round(view.left * 24)
        assert sizes.tolist() == [16, 40, 0, 24 - left if view.flip else left, 16, 16]
        assert mask.shape == (1, 4, 4)
        torch.testing.assert_close((latents[:1] + 1) / 2, mask)
        assert torch.equal(mask, latent_mask(Image.fromarray(grey), 16, 16, view, 4))
        seen.add((round(view.left * 24), view.flip))
    assert len({left for left, _ in seen}) > 10
    assert {flip for _, flip in seen} == {True, False}
    assert draw_view(torch.Generator().manual_seed(0), center=True, flip=False) == View()
