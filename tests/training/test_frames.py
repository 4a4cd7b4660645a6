"""Aspect buckets from end to end: shapes are kept, a micro-batch is of one shape, and the run resumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lorica.errors import ConfigError
from lorica.training.config.config import RunConfig
from lorica.training.progress import Reporter
from lorica.training.run import open_session, train
from lorica.training.setup import make_accelerator
from tiny_training import assert_resumes

Settings = Callable[..., RunConfig]


def test_pictures_keep_their_shapes_and_batches_have_one(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(use_aspect_ratio_buckets=True, gradient_accumulation_steps=2, max_train_steps=None)
    config.output_dir.mkdir()
    session = open_session(config, make_accelerator(config), Reporter())
    loop = session.loop
    shapes = {example.item.path.stem: tuple(example.views[0].mean.shape) for example in loop.dataset.examples}
    assert {shapes[name] for name in ("red", "green", "blue")} == {(4, 8, 8)}
    assert all(shapes[name][2] > shapes[name][1] for name in ("orange", "purple"))  # 59 and 68 by 32 pixels
    assert "pictures  batches" in capsys.readouterr().err
    seen: list[torch.Size] = []
    predict = loop.recipe.predict
    monkeypatch.setattr(loop.recipe, "predict", lambda *told: seen.append(told[0].shape) or predict(*told))
    steps = loop.run(0, lambda: False)
    for _ in range(loop.plan.epoch):
        next(steps)
    session.close()
    assert {tuple(shape[1:]) for shape in seen} == set(shapes.values())
    assert len(seen) == 2 * loop.plan.epoch
    assert loop.plan.steps == 100 * loop.plan.epoch


@pytest.mark.parametrize("no_cache", [False, True])
def test_the_model_is_told_how_each_picture_was_cut(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, *, no_cache: bool
) -> None:
    config = settings(center_crop=True, train_batch_size=5, no_cache=no_cache)
    config.output_dir.mkdir()
    session = open_session(config, make_accelerator(config), Reporter(quiet=True))
    loop, told = session.loop, []
    predict = loop.recipe.predict
    monkeypatch.setattr(loop.recipe, "predict", lambda *inputs: told.append(inputs[2]["sizes"]) or predict(*inputs))
    next(loop.run(0, lambda: False))
    session.close()
    squares, orange, purple = [32, 32, 0, 0, 32, 32], [32, 59, 0, 14, 32, 32], [32, 68, 0, 18, 32, 32]
    assert sorted(told[0].tolist()) == [squares, squares, squares, orange, purple]


def test_a_run_with_buckets_resumes_bit_for_bit(settings: Settings, tmp_path: Path) -> None:
    assert_resumes(settings, tmp_path, enable_bucket=True, bucket_no_upscale=True)


def test_frames_that_the_model_cannot_take_are_refused(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="bucket_reso_steps is 12; this model needs a multiple of 8"):
        train(settings(use_aspect_ratio_buckets=True, bucket_reso_steps=12), quiet=True)
