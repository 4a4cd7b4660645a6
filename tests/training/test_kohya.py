"""Options of Kohya's scripts: understood where they have a meaning here, and named with what to write otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorica.cli.main import run
from lorica.cli.train import command
from lorica.errors import ConfigError
from lorica.training.config.config import RunConfig
from lorica.training.config.kohya import ALWAYS_SO, KOHYA_REFUSED, TRANSLATED
from lorica.training.config.settings import second_names


@pytest.mark.parametrize(
    ("option", "value", "setting", "wanted"),
    [
        ("network_dim", 8, "rank", 8),
        ("network_alpha", 4, "alpha", 4),
        ("unet_lr", 1e-3, "learning_rate", 1e-3),
        ("output_name", "mossy", "save_model_as", "mossy.safetensors"),
        ("save_model_as", "mossy", "save_model_as", "mossy.safetensors"),
        ("save_model_as", "safetensors", "save_model_as", "pytorch_lora_weights.safetensors"),
        ("save_every_n_epochs", 2, "checkpointing_epochs", 2),
        ("save_every_n_steps", 7, "checkpointing_steps", 7),
        ("sample_every_n_steps", 7, "validation_steps", 7),
        ("sample_every_n_epochs", 7, "validation_epochs", 7),
        ("sample_at_first", False, "validation_at_start", False),
        ("max_train_epochs", 3, "num_train_epochs", 3),
        ("network_dropout", 0.1, "lora_dropout", 0.1),
        ("network_weights", "a.safetensors", "initial_adapter", "a.safetensors"),
        ("network_module", "networks.lora", "rank", 4),
        ("lr_scheduler_num_cycles", 1, "lr_num_cycles", 1),
        ("flip_aug", True, "random_flip", True),
        ("random_crop", True, "center_crop", False),
        ("xformers", True, "enable_xformers_memory_efficient_attention", True),
        ("v_parameterization", True, "prediction_type", "v_prediction"),
        ("resolution", "512,512", "resolution", 512),
        ("resume", "latest", "resume_from_checkpoint", "latest"),
        ("log_with", "tensorboard", "report_to", "tensorboard"),
        ("max_data_loader_n_workers", 2, "dataloader_num_workers", 2),
        ("loss_type", "l2", "loss_type", "mse"),
        ("sdpa", True, "rank", 4),
    ],
)
def test_an_option_becomes_a_setting(option: str, value: object, setting: str, wanted: object) -> None:
    assert getattr(RunConfig.from_values({option: value}), setting) == wanted


def test_rates_of_both_components_are_told_apart() -> None:
    both: dict[str, Any] = {"learning_rate": 1e-4, "unet_lr": 2e-4}
    config = RunConfig.from_values({**both, "train_text_encoder": True})
    assert (config.learning_rate, config.text_encoder_lr) == (2e-4, 1e-4)
    config = RunConfig.from_values({**both, "train_text_encoder": True, "text_encoder_lr": 5e-5})
    assert (config.learning_rate, config.text_encoder_lr) == (2e-4, 5e-5)
    assert RunConfig.from_values(both).learning_rate == 2e-4


def test_a_folder_of_regularisation_pictures_is_a_data_set() -> None:
    config = RunConfig.from_values({"reg_data_dir": "reg", "datasets": [{"folder": "more"}]})
    assert [(one.train_data_dir, one.is_reg) for one in config.datasets] == [(Path("more"), False), (Path("reg"), True)]


def test_prompts_of_previews_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(
        "# mine\na cat --n blurry, bad --w 512 --h 512 --d 1 --l 7 --s 20\n\na dog --n blurry, bad --s 20 --l 7\n"
    )
    config = RunConfig.from_values({"sample_prompts": str(file)})
    assert config.validation_prompt == ("a cat", "a dog")
    assert config.validation_negative_prompt == "blurry, bad"
    assert (config.validation_num_inference_steps, config.validation_guidance_scale) == (20, 7)
    file.write_text("a cat --n blurry\na dog\n")
    with pytest.raises(ConfigError, match=r"--n must be one of .* and the same in every line"):
        RunConfig.from_values({"sample_prompts": str(file)})
    file.write_text("\n")
    with pytest.raises(ConfigError, match="holds no prompt"):
        RunConfig.from_values({"sample_prompts": str(file)})
    with pytest.raises(ConfigError, match="cannot read the prompts"):
        RunConfig.from_values({"sample_prompts": str(tmp_path / "gone.txt")})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"network_module": "lycoris.kohya"}, "network_module is lycoris.kohya, and only LoRA"),
        ({"network_args": "x"}, "network_args is not offered: write its parts as settings"),
        ({"resolution": "512,768"}, "resolution is one side here, got 512,768"),
        ({"v_parameterization": True, "prediction_type": "epsilon"}, "both say the same"),
        ({"save_model_as": "ckpt"}, "written as .safetensors alone"),
        ({"save_model_as": "a/b"}, "name of a file without folders"),
        ({"save_model_as": "a", "output_name": "b"}, "output_name and save_model_as both say the same"),
        ({"network_dim": 4, "rank": 8}, "rank and network_dim are two names of one setting"),
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_values(values)
    assert message in str(caught.value)


def test_nothing_stands_in_two_tables() -> None:
    tables = [
        set(KOHYA_REFUSED),
        set(TRANSLATED),
        set(ALWAYS_SO),
        set(RunConfig.model_fields) | set(second_names(RunConfig)),
    ]
    assert sum(map(len, tables)) == len(set().union(*tables))


def test_a_command_of_kohyas_pages_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunConfig] = []

    class Result:
        adapter_path, output_dir, steps, seconds, final_loss = Path("a"), Path("b"), 1, 1.0, 0.1

    monkeypatch.setattr("lorica.training.run.train", lambda config: seen.append(config) or Result())
    line = (
        "--pretrained_model_name_or_path=someone/model --train_data_dir=pictures --resolution=512,512 --output_dir=out "
        "--output_name=mossy --save_model_as=safetensors --network_module=networks.lora --network_dim=32 "
        "--network_alpha=16 --unet_lr=1e-4 --text_encoder_lr=5e-5 --train_text_encoder --max_train_epochs=10 "
        "--save_every_n_epochs=1 --mixed_precision=bf16 --optimizer_type=AdamW8bit --cache_latents --sdpa "
        "--lr_scheduler=cosine --lr_warmup_steps=0.1 --min_snr_gamma=5 --enable_bucket --cache_latents_to_disk"
    )
    assert run(["train", *line.split()]) == 0
    config = seen[0]
    assert (config.rank, config.alpha, config.resolution, config.save_model_as) == (32, 16, 512, "mossy.safetensors")
    assert (config.checkpointing_epochs, config.lr_warmup_steps, config.use_aspect_ratio_buckets) == (1, 0.1, True)


def test_dreambooth_is_a_task(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[RunConfig] = []

    def note(config: RunConfig) -> None:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("lorica.training.rehearsal.rehearse", note)
    arguments = ["--instance_data_dir", "dog", "--instance_prompt", "a sks dog", "--max_train_steps", "5", "--dry_run"]
    run(["train", "dreambooth", *arguments])
    assert (seen[0].train_batch_size, seen[0].instance_prompt, str(seen[0].train_data_dir)) == (4, "a sks dog", "dog")
    assert run(["train", "dreambooth", "--instance_data_dir", "dog"]) == 2
    assert "dreambooth needs the words for the thing: --instance_prompt" in capsys.readouterr().err


def test_the_help_has_sections_with_the_common_options_first() -> None:
    shown = command.get_help(command.make_context("train", [], resilient_parsing=True))
    titles = [line.rstrip(":") for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles[0] == "Most common"
    assert len(titles) >= 8
    common = shown.split("Most common:")[1].split("The base model:")[0]
    assert common.count("\n  --") == 10
    assert shown.count("--rank,") == 1
    assert "--reg_data_dir" not in shown  # understood, and not listed
