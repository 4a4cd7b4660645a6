"""One run from end to end: it learns, it resumes bit for bit, and it leaves what it promises."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lorica.errors import StateError, TrainingError
from lorica.training.config.config import RunConfig
from lorica.training.loop import Loop, StepReport
from lorica.training.output.checkpoint import list_checkpoints
from lorica.training.output.metrics import read_metrics
from lorica.training.run import RunInterrupted, TrainResult, train

Settings = Callable[..., RunConfig]


def test_the_loss_falls_on_one_picture(settings: Settings) -> None:
    losses: list[float] = []
    train(
        settings(max_train_samples=1, max_train_steps=60), on_step=lambda report: losses.append(report.loss), quiet=True
    )
    assert sum(losses[-15:]) < 0.8 * sum(losses[:15])


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(settings: Settings, tmp_path: Path) -> None:
    options = {"random_flip": True, "lora_dropout": 0.2, "lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 2}
    whole = _train(settings(**options))
    parted = tmp_path / "parted" / "out"  # the same name, which the file's title is
    _train(settings(**options, output_dir=parted, max_train_steps=3))
    torch.manual_seed(991)
    _train(settings(**options, output_dir=parted, max_train_steps=5, resume_from_checkpoint="latest"))
    torch.manual_seed(992)
    last = _train(settings(**options, output_dir=parted, resume_from_checkpoint="latest"))
    assert last.adapter == whole.adapter
    assert last.adapter_path.read_bytes() == whole.adapter_path.read_bytes()
    assert _losses(last) == _losses(whole)
    assert len(_losses(last)) == 7


def test_the_text_encoder_is_trained_and_resumed_too(settings: Settings, tmp_path: Path) -> None:
    options = {"train_text_encoder": True, "text_encoder_lr": 2e-3}
    whole = _train(settings(**options))
    parted = tmp_path / "parted" / "out"
    _train(settings(**options, output_dir=parted, max_train_steps=4))
    last = _train(settings(**options, output_dir=parted, resume_from_checkpoint="latest"))
    assert last.adapter_path.read_bytes() == whole.adapter_path.read_bytes()
    ups = [layer.tensors["up"] for component, _, layer in whole.adapter.layers() if component == "text_encoder"]
    assert len(ups) == 8  # q, k, v, out of two layers
    assert all(up.abs().max() > 0 for up in ups)


def test_a_run_leaves_everything_that_belongs_to_it(settings: Settings) -> None:
    result = _train(
        settings(validation_prompt="a red circle", num_validation_images=1, validation_num_inference_steps=2)
    )
    assert sorted(path.name for path in result.output_dir.iterdir() if not path.name.startswith(".")) == [
        "README.md",
        "checkpoint-7",
        "loss.png",
        "losses.csv",
        "metrics.jsonl",
        "previews",
        "pytorch_lora_weights.safetensors",
        "run.toml",
    ]
    drawn = sorted(path.name for path in (result.output_dir / "previews").iterdir())
    assert drawn == ["step-000000-0.png", "step-000007-0.png", "steps.png"]
    assert RunConfig.from_toml(result.output_dir / "run.toml").max_train_steps == 7
    assert result.steps == 7


def test_the_file_says_how_it_was_made_and_nothing_of_the_machine(settings: Settings, tmp_path: Path) -> None:
    result = _train(settings())
    with safe_open(result.adapter_path, framework="pt") as file:
        metadata = file.metadata()
    config = json.loads(metadata["lorica.config"])
    assert (config["rank"], config["seed"], config["train_data_dir"]) == (3, 0, "pictures")
    assert metadata["modelspec.prediction_type"] == "v"
    assert metadata["modelspec.resolution"] == "32x32"
    assert len(metadata["lorica.dataset_hash"]) == 40
    assert str(tmp_path) not in str(metadata)


def test_accumulated_micro_batches_equal_one_large_batch(settings: Settings, tmp_path: Path) -> None:
    options = {"max_train_steps": 3, "learning_rate": 1e-3}
    large, small = (
        _reports(settings(**options, train_batch_size=6)),
        _reports(settings(**options, train_batch_size=3, gradient_accumulation_steps=2, output_dir=tmp_path / "small")),
    )
    for one, two in zip(large, small, strict=True):
        assert one.loss == pytest.approx(two.loss, rel=1e-5)
        assert one.gradient_norm == pytest.approx(two.gradient_norm, rel=1e-4)


def test_a_run_that_is_not_resumed_refuses_a_folder_with_checkpoints(settings: Settings) -> None:
    _train(settings(max_train_steps=1))
    with pytest.raises(StateError, match="--resume_from_checkpoint latest"):
        _train(settings(max_train_steps=1))
    _train(settings(max_train_steps=2, overwrite_output_dir=True))


def test_a_run_does_not_go_back_behind_its_checkpoint(settings: Settings) -> None:
    _train(settings(max_train_steps=3))
    with pytest.raises(StateError, match="has done 3 steps, and the run is to end at 2"):
        _train(settings(max_train_steps=2, resume_from_checkpoint="latest"))
    finished = _train(settings(max_train_steps=3, resume_from_checkpoint="latest"))  # nothing left to do but the files
    assert (finished.steps, len(_losses(finished))) == (3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 5}, "rank was 3, is 5"),
        ({"target_modules": ("*.attn2.to_k",)}, "target_modules: .* gone"),
        ({"seed": 8}, "seed was 0, is 8"),
        ({"train_batch_size": 3}, "samples a step .* was 2, is 3"),
        (
            {"instance_prompt": "a thing"},
            r"captions: 5 changed \(blue.png, green.png, orange.png, \.\.\.\)",
        ),
    ],
)
def test_a_changed_run_is_not_resumed(settings: Settings, change: dict[str, object], message: str) -> None:
    _train(settings(max_train_steps=1))
    with pytest.raises(StateError, match=message):
        _train(settings(**change, resume_from_checkpoint="latest"))


def test_a_broken_checkpoint_is_passed_over(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    whole = _train(settings(checkpointing_steps=2))
    newest = list_checkpoints(whole.output_dir)[-1]
    content = (newest / "state.safetensors").read_bytes()
    (newest / "state.safetensors").write_bytes(content[: len(content) // 2])
    again = train(settings(checkpointing_steps=2, resume_from_checkpoint="latest"))
    said = capsys.readouterr().err
    assert "checkpoint-7 is broken and passed over" in said
    assert "going on from step 6" in said
    assert again.adapter == whole.adapter


def test_checkpoints_beyond_the_limit_are_deleted(settings: Settings) -> None:
    result = _train(settings(checkpointing_steps=2, checkpoints_total_limit=2))
    assert [path.name for path in list_checkpoints(result.output_dir)] == ["checkpoint-6", "checkpoint-7"]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_pictures(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    backward = Loop._backward

    def poisoned(self: object, step: int, *rest: object) -> torch.Tensor:
        calls.append(step)
        loss = backward(self, step, *rest)
        return loss * float("nan") if step == 3 else loss

    monkeypatch.setattr("lorica.training.loop.Loop._backward", poisoned)
    with pytest.raises(TrainingError, match=r"step 4 was not applied: its loss is nan.*\.png.*checkpoints are intact"):
        _train(settings(checkpointing_steps=3))
    assert calls == [0, 1, 2, 3]
    assert [path.name for path in list_checkpoints(settings().output_dir)] == ["checkpoint-3"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_a_checkpoint_and_says_how_to_go_on(settings: Settings, number: signal.Signals) -> None:
    def press_control_c(report: StepReport) -> None:
        if report.step == 2:
            os.kill(os.getpid(), number)

    whole = _train(settings(output_dir=settings().output_dir.parent / "whole" / "out"))
    with pytest.raises(RunInterrupted, match=r"stopped after step 3.*lorica train .*run\.toml --resume_from"):
        train(settings(), on_step=press_control_c, quiet=True)
    assert [path.name for path in list_checkpoints(settings().output_dir)] == ["checkpoint-3"]
    assert _train(settings(resume_from_checkpoint="latest")).adapter == whole.adapter


def _train(config: RunConfig) -> TrainResult:
    return train(config, quiet=True)


def _reports(config: RunConfig) -> list[StepReport]:
    reports: list[StepReport] = []
    train(config, on_step=reports.append, quiet=True)
    return reports


def _losses(result: TrainResult) -> list[float]:
    return [line["loss"] for line in read_metrics(result.output_dir / "metrics.jsonl")]
