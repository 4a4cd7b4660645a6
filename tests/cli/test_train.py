"""The settings of ``lorica train``: from a run file, from ``--set``, from options, under every spelling."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lorica.cli.main import run
from lorica.cli.options import canonical, options_of, settings
from lorica.cli.train import command, configuration
from lorica.errors import ConfigError
from lorica.training.config.config import RunConfig
from lorica.training.config.refused import REFUSED


@dataclass(frozen=True)
class SampleResult:
    """Stands for what a training run returns."""

    output_dir: Path = Path("out")
    adapter_path: Path = Path("out") / "pytorch_lora_weights.safetensors"
    steps: int = 7
    seconds: float = 3.0
    final_loss: float = 0.25


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that training is called with, in place of training."""
    configs: list[RunConfig] = []

    def train(config: RunConfig) -> SampleResult:
        configs.append(config)
        return SampleResult()

    monkeypatch.setattr("lorica.training.run.train", train)
    return configs


@pytest.mark.parametrize("arguments", [["--train_data_dir", "cats"], ["--train-data-dir", "cats"]], ids=" ".join)
def test_dashes_and_underscores_are_the_same(arguments: list[str], seen: list[RunConfig]) -> None:
    assert run(["train", "text-to-image", *arguments]) == 0
    assert seen[0].train_data_dir == Path("cats")


@pytest.mark.parametrize("spelling", ["--alpha", "--lora_alpha", "--lora-alpha"])
def test_alpha_has_two_names(spelling: str, seen: list[RunConfig]) -> None:
    assert run(["train", spelling, "6"]) == 0
    assert seen[0].alpha == 6


def test_a_command_of_the_diffusers_documentation_runs(seen: list[RunConfig]) -> None:
    line = (
        "--pretrained_model_name_or_path=someone/model --train_data_dir=pictures --resolution=512 --center_crop "
        "--random_flip --train_batch_size=2 --gradient_accumulation_steps=4 --max_train_steps=15000 "
        "--learning_rate=1e-04 --max_grad_norm=1 --lr_scheduler=cosine --lr_warmup_steps=0 --output_dir=out "
        "--checkpointing_steps=300 --seed=1337 --mixed_precision=fp16"
    )
    assert run(["train", "text-to-image", *line.split()]) == 0
    config = seen[0]
    assert config.pretrained_model_name_or_path == "someone/model"
    assert (config.center_crop, config.random_flip) == (True, True)
    assert (config.learning_rate, config.lr_scheduler, config.seed) == (1e-4, "cosine", 1337)


def test_a_switch_can_be_turned_off_again(seen: list[RunConfig], tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("random_flip = true\n")
    assert run(["train", str(file), "--no_random_flip"]) == 0
    assert seen[0].random_flip is False


def test_options_lie_over_set_and_set_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('rank = 3\nlora_alpha = 5.0\nseed = 11\nlr-scheduler = "cosine"\n')
    config = configuration(str(file), ("seed=12", "alpha=7"), {"alpha": "8", "rank": None})
    assert (config.rank, config.seed, config.alpha, config.lr_scheduler) == (3, 12, 8, "cosine")


def test_set_reads_switches_numbers_lists_and_text() -> None:
    pairs = ["rank=8", "center_crop=true", 'target_modules=["all"]', "validation_prompt=a cat = a pet"]
    assert settings(pairs) == {
        "rank": 8,
        "center_crop": True,
        "target_modules": ["all"],
        "validation_prompt": "a cat = a pet",
    }


def test_set_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="--set takes name=value, such as --set rank=8, got 'rank'"):
        settings(["rank"])


def test_every_setting_is_an_option_with_help() -> None:
    options = {option.name: option for option in options_of(RunConfig)}
    assert list(options) == list(RunConfig.model_fields)
    assert all(getattr(option, "help", "") for option in options.values())
    assert all(option.default is None for option in options.values())  # the model alone knows defaults


def test_other_spellings_become_the_field() -> None:
    assert canonical(RunConfig, {"lora-alpha": 1, "train-data-dir": "x"}) == {"alpha": 1, "train_data_dir": "x"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rnk", "3"], "No such option '--rnk'"),
        (["--set", "rnk=3"], "unknown setting 'rnk'. Did you mean 'rank'?"),
        (["--rank", "many"], "rank"),
        (["--lr_scheduler", "cosin"], "'cosine'"),
        (["text-to-imag"], "Did you mean 'text-to-image'?"),
        (["nowhere.toml"], "nowhere.toml"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_wrong_input_is_told_in_a_paragraph(
    arguments: list[str], message: str, seen: list[RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not seen


@pytest.mark.parametrize("name", REFUSED)
def test_an_option_that_is_not_offered_says_why(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", f"--{name.replace('_', '-')}"]) == 2
    assert f"{name} is not offered: {REFUSED[name]}" in capsys.readouterr().err


def test_json_is_one_object_on_standard_output(seen: list[RunConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--json", "--rank", "2"]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert facts == {
        "adapter": "out/pytorch_lora_weights.safetensors",
        "output_dir": "out",
        "steps": 7,
        "seconds": 3.0,
        "final_loss": 0.25,
    }
    assert seen[0].rank == 2


def test_a_run_ends_with_what_was_made_and_what_to_try_next(
    seen: list[RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "--pretrained_model_name_or_path", "my model"]) == 0
    shown = capsys.readouterr().out
    assert "Trained 7 steps in 3 s; the loss ended at 0.2500." in shown
    assert "lorica generate --base 'my model' --lora out/pytorch_lora_weights.safetensors" in shown
    assert len(seen) == 1


def test_the_help_names_every_setting() -> None:
    shown = command.get_help(command.make_context("train", [], resilient_parsing=True))
    assert all(f"--{name}" in shown for name in RunConfig.model_fields)
