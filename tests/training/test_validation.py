"""The loss on pictures held out: what it is, that it can be compared, and that training does not notice it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lorica.data.cache import Cache, digest_of_bytes
from lorica.errors import ConfigError, DataError
from lorica.rng import generator
from lorica.training.config.config import RunConfig
from lorica.training.config.inputs import DataSettings
from lorica.training.config.output import ValidationSettings
from lorica.training.dataset.sources import collect_items
from lorica.training.dataset.validation import hold_out
from lorica.training.output.metrics import read_metrics
from lorica.training.progress import Reporter
from lorica.training.run import train
from lorica.training.session import Session
from tiny_training import assert_resumes, write_pictures

Settings = Callable[..., RunConfig]
Opened = Callable[..., Session]
FP32_NOISE = 1e-5  # relative; the loss is a mean of some hundred squares near 1


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """Two pictures that are not trained on."""
    return write_pictures(tmp_path / "others", 2)


def lines_of(folder: Path) -> list[tuple[int, float]]:
    return [(int(line["step"]), line["validation_loss"]) for line in read_metrics(folder / "metrics.jsonl")
            if "validation_loss" in line]  # fmt: skip


def test_it_is_the_plain_squared_error_written_out(opened: Opened, others: Path) -> None:
    session = opened(
        validation_data_dir=others,
        validation_loss_levels=3,
        caption_dropout=0.9,
        trigger_word="zorblin",
        loss_type="huber",
        snr_gamma=0.1,
        noise_offset=0.5,
        min_timestep=700,
    )
    recipe, total = session.loop.recipe, 0.0
    time = torch.tensor([166, 500, 833])  # the middles of three thirds of 1000
    for color in ("green", "red"):
        digest = digest_of_bytes((others / f"{color}.png").read_bytes())
        noise = torch.stack(
            [torch.randn(4, 8, 8, generator=generator(f"validation/{digest}/{level}")) for level in range(3)]
        )
        example = next(one for one in session.loop.dataset.examples if one.item.path.stem == color)
        mean = example.views[0].mean  # the same picture is among those trained on here
        noisy, target = recipe.corrupt(mean.expand(3, -1, -1, -1), noise, time)
        states = recipe.encode_text(f"zorblin, a large {color} circle")["states"].expand(3, -1, -1)
        with torch.no_grad():
            total += (recipe.predict(noisy, time, {"states": states}) - target).square().mean().item() / 2
    assert session.validation_loss() == pytest.approx(total, rel=FP32_NOISE)


def test_it_does_not_depend_on_what_may_differ_between_runs(opened: Opened, others: Path) -> None:
    plain = opened(validation_data_dir=others).validation_loss()
    changes: tuple[dict[str, Any], ...] = (
        {"seed": 9, "train_batch_size": 3, "random_flip": True, "random_crops": 2, "loss_type": "pseudo_huber"},
        {"shuffle_tags": True, "lora_dropout": 0.5, "use_aspect_ratio_buckets": True, "snr_gamma": 5.0},
        {"rank": 5, "max_timestep": 200, "pyramid_noise_levels": 3, "use_ema": True, "no_cache": True},
    )
    for change in changes:
        assert opened(validation_data_dir=others, **change).validation_loss() == plain
    assert opened(validation_data_dir=others, validation_loss_levels=5).validation_loss() != plain


def test_nothing_is_dropped_while_it_is_measured(opened: Opened, others: Path) -> None:
    session = opened(validation_data_dir=others, lora_dropout=0.5)
    next(session.loop.run(0, lambda: False))
    losses = set()
    for key in ("one", "another"):
        session.loop.trainable.set_dropout_key(key)
        losses.add(session.validation_loss())
    assert len(losses) == 1
    assert all(part.training for part in session.loop.recipe.components.values())


def test_it_is_measured_with_the_running_mean_that_will_be_written(opened: Opened, others: Path) -> None:
    session = opened(validation_data_dir=others, use_ema=True, ema_decay=0.5)
    steps = session.loop.run(0, lambda: False)
    next(steps)
    next(steps)
    recipe, measure = session.loop.recipe, session._validation
    trained = measure.loss(recipe, torch.device("cpu"), nullcontext())
    with session.loop.result():
        mean = measure.loss(recipe, torch.device("cpu"), nullcontext())
    assert session.validation_loss() == mean != trained


def test_training_does_not_notice_it(settings: Settings, others: Path, tmp_path: Path) -> None:
    options = {"lora_dropout": 0.3, "random_flip": True, "use_ema": True, "max_train_steps": 4}
    plain = train(settings(**options), quiet=True)
    watched = settings(
        **options, validation_data_dir=others, validation_loss_steps=1, output_dir=tmp_path / "watched" / "out"
    )
    result = train(watched, quiet=True)
    assert result.adapter == plain.adapter
    states = [load_file(one.output_dir / "checkpoint-4" / "state.safetensors") for one in (plain, result)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    losses = [[line["loss"] for line in read_metrics(one.output_dir / "metrics.jsonl") if "loss" in line]
              for one in (plain, result)]  # fmt: skip
    assert losses[0] == losses[1]
    assert [step for step, _ in lines_of(result.output_dir)] == [0, 1, 2, 3, 4]
    assert len({loss for _, loss in lines_of(result.output_dir)}) == 5


def test_it_resumes_bit_for_bit_with_its_lines(settings: Settings, tmp_path: Path) -> None:
    result = assert_resumes(settings, tmp_path, stop=2, validation_split=0.4, validation_loss_steps=2, lora_dropout=0.2)
    assert [step for step, _ in lines_of(result.output_dir)] == [0, 2, 3]
    assert "loss on 2 pictures held out" in (result.output_dir / "README.md").read_text()


def test_a_split_depends_on_the_pictures_alone(opened: Opened, pictures: Path, tmp_path: Path) -> None:
    for path in write_pictures(tmp_path / "class", 3).glob("*.png"):
        Image.open(path).rotate(90).save(path)  # a copy of a picture that is trained on would not be held out
    reg = {"folder": tmp_path / "class", "is_reg": True}
    sessions = [
        opened(validation_split=0.4, seed=seed, datasets=sets) for seed, sets in ((0, ()), (7, ()), (0, (reg,)))
    ]
    trained = [[example.item.path for example in one.loop.dataset.examples] for one in sessions]
    assert trained[0] == trained[1]
    assert len(trained[0]) == 3
    assert trained[2] == [*trained[0], *sorted((tmp_path / "class").glob("*.png"))]
    assert sessions[2].loop.dataset.groups[0].source.count == 3


def test_it_falls_where_the_pictures_are_alike(settings: Settings, others: Path) -> None:
    result = train(settings(validation_data_dir=others, max_train_steps=40, validation_loss_steps=40), quiet=True)
    (_, first), (_, last) = lines_of(result.output_dir)
    assert last < 0.9 * first


def test_a_killed_run_that_begins_again_has_one_line_for_step_0(settings: Settings, others: Path) -> None:
    config = settings(validation_data_dir=others, max_train_steps=1)
    config.output_dir.mkdir()
    (config.output_dir / "metrics.jsonl").write_text(json.dumps({"step": 0, "validation_loss": 5.0}) + "\n")
    assert [step for step, _ in lines_of(train(config, quiet=True).output_dir)] == [0, 1]


def test_settings_and_pictures_that_do_not_do_are_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"validation_split 0\.95 of 5 pictures leaves none to train on"):
        train(settings(validation_split=0.95), quiet=True)
    with pytest.raises(DataError, match="there is no folder"):
        train(settings(validation_data_dir=tmp_path / "gone"), quiet=True)
    with pytest.raises(ConfigError, match="both set: leave one out"):
        settings(validation_split=0.1, validation_data_dir=tmp_path)
    with pytest.raises(ConfigError, match="nothing is held out: add validation_split"):
        settings(validate_every_n_steps=5)


def test_a_copy_of_a_trained_picture_is_not_held_out(settings: Settings, pictures: Path) -> None:
    copies = {f"{path.stem}-{number}" for path in pictures.glob("*.png") for number in range(4)}
    for name in copies:
        stem = name.rpartition("-")[0]
        for suffix in (".png", ".txt"):
            (pictures / f"{name}{suffix}").write_bytes((pictures / f"{stem}{suffix}").read_bytes())
    Image.new("RGB", (32, 32), "pink").save(pictures / "alone.png")
    (pictures / "alone.txt").write_text("pink")
    config = settings(validation_split=0.9)
    found = collect_items(config, 0, None, Reporter(quiet=True))
    parts = (config.part(ValidationSettings), config.part(DataSettings), Cache(None), Reporter(quiet=True))
    left, held = hold_out(found.items, found.sets, *parts)
    contents = [{item.read() for item in items} for items in (left, held)]
    assert held
    assert not contents[0] & contents[1]
    assert len(left) + len(held) == 26


def test_held_out_pictures_that_are_trained_on_are_named(settings: Settings, others: Path) -> None:
    config, said = settings(validation_data_dir=others), list[str]()
    reporter = Reporter(quiet=True)
    reporter.say = said.append
    found = collect_items(config, 0, None, reporter)
    hold_out(found.items, found.sets, config.part(ValidationSettings), config.part(DataSettings), Cache(None), reporter)
    assert "2 of these 2 are trained on as well" in said[-1]
    assert said[-1].endswith("green.png, red.png")
