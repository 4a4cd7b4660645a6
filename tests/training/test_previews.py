"""Previews: several prompts, a negative one, before the first step, on one sheet; in trackers; and the model card."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from lorica.adapters import Adapter, LoHa, LoRA
from lorica.errors import ConfigError, FileError
from lorica.formats import read, write
from lorica.tools.inspect import adapter_files
from lorica.training import progress
from lorica.training.config.config import RunConfig
from lorica.training.output.checkpoint import list_checkpoints
from lorica.training.output.picture_losses import LOSSES, picture_losses
from lorica.training.output.trackers import tracker_names
from lorica.training.progress import Reporter
from lorica.training.run import train
from tiny_training import assert_resumes

Settings = Callable[..., RunConfig]
DRAWN = {"num_validation_images": 2, "validation_num_inference_steps": 2, "max_train_steps": 4}


def test_every_prompt_is_drawn_from_the_same_seeds_before_during_and_after(settings: Settings) -> None:
    prompts = ("a red star", "a blue star")
    result = train(settings(**DRAWN, validation_prompt=prompts, validation_steps=2, seed=5), quiet=True)
    folder = result.output_dir / "previews"
    names = [f"step-{step:06d}-{number}.png" for step in (0, 2, 4) for number in range(4)]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "steps.png"]
    facts = [Image.open(folder / name).text for name in names[:4]]  # type: ignore[attr-defined]
    assert [(fact["prompt"], fact["seed"]) for fact in facts] == [(p, s) for p in prompts for s in ("5", "6")]
    with Image.open(folder / "steps.png") as sheet:
        assert sheet.height > 3 * 128  # a row for each step
        assert sheet.width > 4 * 128


def test_a_negative_prompt_changes_the_picture(settings: Settings, tmp_path: Path) -> None:
    options = {**DRAWN, "validation_prompt": "a red star", "max_train_steps": 1}
    one = train(settings(**options, output_dir=tmp_path / "one"), quiet=True)
    two = train(settings(**options, validation_negative_prompt="blue", output_dir=tmp_path / "two"), quiet=True)
    name = "previews/step-000001-0.png"
    with Image.open(one.output_dir / name) as first, Image.open(two.output_dir / name) as second:
        assert first.tobytes() != second.tobytes()
        assert second.text["negative prompt"] == "blue"  # type: ignore[attr-defined]


def test_trackers_get_the_settings_the_numbers_and_the_pictures(settings: Settings) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(settings(**DRAWN, validation_prompt="a red star", report_to="all"), quiet=True)
    found = EventAccumulator(str(result.output_dir / "logs" / "lorica"), size_guidance={"images": 0})
    found.Reload()
    assert "loss" in found.Tags()["scalars"]
    (tag, *_) = found.Tags()["images"]
    assert {event.step for event in found.Images(tag)} == {0, 4}
    hparams = next(result.output_dir.rglob("hparams.yml")).read_text()
    assert "rank: 3" in hparams
    assert str(result.output_dir) not in hparams


def test_report_to_takes_none_all_and_several() -> None:
    assert RunConfig(report_to="none").report_to is None
    assert tracker_names("tensorboard, wandb") == ["tensorboard", "wandb"]
    assert tracker_names(None) == tracker_names("none") == []


def test_checkpoints_begin_at_a_step_and_follow_epochs(settings: Settings, tmp_path: Path) -> None:
    late = train(settings(checkpointing_steps=2, checkpointing_start_step=5), quiet=True)
    assert [path.name for path in list_checkpoints(late.output_dir)] == ["checkpoint-6", "checkpoint-7"]
    by_epoch = train(settings(checkpointing_epochs=1, output_dir=tmp_path / "epochs"), quiet=True)
    assert [path.name for path in list_checkpoints(by_epoch.output_dir)] == [
        "checkpoint-3",
        "checkpoint-6",
        "checkpoint-7",
    ]


def test_the_adapter_has_the_name_that_was_asked_for(settings: Settings) -> None:
    result = train(settings(save_model_as="mossy", max_train_steps=1), quiet=True)
    assert result.adapter_path.name == "mossy.safetensors"
    assert (result.output_dir / "checkpoint-1" / "mossy.safetensors").is_file()
    assert "--lora mossy.safetensors" in (result.output_dir / "README.md").read_text()
    assert read(result.output_dir / "checkpoint-1") == result.adapter  # not the state beside it
    with pytest.raises(
        FileError, match=r"is the state of a training run and no adapter; beside it is mossy.safetensors"
    ):
        read(result.output_dir / "checkpoint-1" / "state.safetensors")
    assert "state.safetensors" not in {path.name for path in adapter_files(result.output_dir)}


def test_the_card_names_the_trigger_word(settings: Settings) -> None:
    result = train(settings(trigger_word="zorblin", max_train_steps=1), quiet=True)
    card = (result.output_dir / "README.md").read_text()
    assert 'instance_prompt: "zorblin"' in card.split("---")[1]
    assert "Write `zorblin` in the prompt" in card


def test_the_loss_of_each_picture_is_reported(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(settings())
    with (result.output_dir / LOSSES).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["picture"] for row in rows} == {
        f"{color}.png" for color in ("red", "green", "blue", "orange", "purple")
    }
    assert sum(int(row["samples"]) for row in rows) == 14
    assert "loss above the others at the same noise" in capsys.readouterr().err or float(rows[0]["relative"]) <= 1.25


def test_a_loss_is_compared_with_others_at_the_same_noise() -> None:
    lines = [{"samples": [[0, 100, 1.0], [1, 100, 3.0], [0, 999, 0.1], [1, 999, 0.3]]}, {"step": 2}]
    rows = picture_losses(lines, ["even.png", "odd.png"])
    assert [(row.picture, row.samples, row.relative) for row in rows] == [
        ("odd.png", 2, pytest.approx(1.5)),
        ("even.png", 2, pytest.approx(0.5)),
    ]


@pytest.mark.parametrize("format", ["kohya", "diffusers"])
def test_a_run_goes_on_from_any_adapter_file(settings: Settings, tmp_path: Path, format: str) -> None:  # noqa: A002
    first = train(settings(output_dir=tmp_path / "first", alpha=1.5), quiet=True)
    path = write(first.adapter, tmp_path / "other.safetensors", format=format)
    begun = settings(output_dir=tmp_path / "second", initial_adapter=str(path), rank=4, learning_rate=1e-12)
    second = train(begun, quiet=True)
    for component, place, layer in second.adapter.layers():
        before = first.adapter.components[component][place]
        assert layer.alpha == before.alpha
        for name, tensor in layer.tensors.items():
            torch.testing.assert_close(tensor, before.tensors[name], atol=1e-6, rtol=0)


def test_going_on_from_a_file_resumes_bit_for_bit(settings: Settings, tmp_path: Path) -> None:
    first = train(settings(output_dir=tmp_path / "first"), quiet=True)
    assert_resumes(settings, tmp_path, initial_adapter=str(first.adapter_path), rank=4, instance_prompt="another thing")


def test_an_initial_adapter_that_does_not_fit_is_refused(settings: Settings, tmp_path: Path) -> None:
    text = train(settings(train_text_encoder=True, output_dir=tmp_path / "text", max_train_steps=1), quiet=True)
    with pytest.raises(
        ConfigError, match=r"(?s)initial_adapter does not fit what is trained: .*add train_text_encoder"
    ):
        train(settings(initial_adapter=str(text.adapter_path), rank=4), quiet=True)
    factors = [torch.randn(12, 16), torch.randn(16, 12), torch.randn(12, 16), torch.randn(16, 12)]
    layer = LoHa(factors[1], factors[0], factors[3], factors[2], 12.0)
    path = write(
        Adapter({"unet": {"mid_block.attentions.0.proj_in": layer}}), tmp_path / "loha.safetensors", format="kohya"
    )
    with pytest.raises(ConfigError, match=r"cannot be trained on as it is: unet.mid_block.* --approximate rank=16"):
        train(settings(initial_adapter=str(path), rank=4), quiet=True)
    unet = write(
        Adapter({"unet": {"mid_block.attentions.0.proj_in": LoRA(torch.ones(1, 16), torch.ones(16, 1), 1.0)}}),
        tmp_path / "unet.safetensors",
    )
    with pytest.raises(ConfigError, match=r"text_encoder is to be trained, but initial_adapter .* has no layer of it"):
        train(settings(initial_adapter=str(unet), rank=4, train_text_encoder=True), quiet=True)


def test_what_is_said_is_logged_too(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lorica"):
        train(settings(max_train_steps=1), quiet=True)
    said = [record.getMessage() for record in caplog.records if record.name == "lorica"]
    assert any("5 pictures in" in text for text in said)
    assert any(text.startswith("training 1/1") for text in said)


def test_without_a_terminal_a_line_comes_every_twenty_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    monkeypatch.setenv("FORCE_COLOR", "1")  # as some logs set it, which are no terminals all the same
    with Reporter().progress("training", 100) as advance:
        for _ in range(50):
            now[0] += 5.0
            advance("loss 0.1")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 12
    assert "training 4/100" in lines[0]


def test_metrics_hold_every_sample(settings: Settings) -> None:
    result = train(settings(max_train_steps=2, gradient_accumulation_steps=2), quiet=True)
    for line in (result.output_dir / "metrics.jsonl").read_text().splitlines():
        found = json.loads(line)
        assert len(found["samples"]) == 4
        assert sum(loss for _, _, loss in found["samples"]) / 4 == pytest.approx(found["loss"], rel=1e-4)
