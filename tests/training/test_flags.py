"""Every flag of the diffusers scripts has its name and default here, or is refused with a reason.

``diffusers_flags.json`` holds their names and defaults: T is train_text_to_image_lora, TX its SDXL sibling, D
train_dreambooth_lora, DX its SDXL sibling, DF its Flux sibling. ``req`` is required, ``flag`` a switch that is off.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorica.cli.main import run
from lorica.cli.options import options_of
from lorica.errors import ConfigError
from lorica.training.config.config import RunConfig
from lorica.training.config.refused import REFUSED
from lorica.training.config.settings import second_names

FLAGS: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "diffusers_flags.json").read_text())
OTHER_DEFAULTS = {
    "pretrained_model_name_or_path": "the bundled model needs no download",
    "instance_data_dir": "there are other ways to name pictures",
    "instance_prompt": "captions may lie beside the pictures",
    "num_class_images": "all that there are; 100 are drawn if there are none",
    "output_dir": "the scripts' names speak of scripts",
    "resolution": "the model's own",
    "validation_epochs": "previews are drawn at checkpoints",
    "lr_warmup_steps": "500 steps are longer than many runs",
    "optimizer": "the same one, in lower case",
    "text_encoder_lr": "learning_rate, as in the scripts without this flag",
    "lora_alpha": "alpha is the rank, as in the scripts without this flag",
    "seed": "a run can always be repeated",
    "validation_prompt": "several can be given, and none is an empty list",
    "report_to": "metrics.jsonl and loss.png need no tracker",
}


def known_names() -> list[str]:
    """Every name that a run file may hold."""
    return [*RunConfig.model_fields, *second_names(RunConfig)]


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_is_offered_or_refused_with_a_reason(flag: str) -> None:
    spellings = {spelling for option in options_of(RunConfig) for spelling in option.opts}
    assert (flag in known_names()) != (flag in REFUSED)
    assert (f"--{flag}" in spellings) == (flag in known_names()) or f"--{flag}/--no_{flag}" in spellings


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag not in REFUSED])
def test_its_default_is_the_scripts_or_differs_for_a_reason(flag: str) -> None:
    ours = getattr(RunConfig(), second_names(RunConfig).get(flag, flag))
    theirs = next(iter(FLAGS[flag].values()))
    same = {"flag": ours is False, "None": ours is None}.get(theirs, str(ours) == theirs or _number(theirs) == ours)
    assert same != (flag in OTHER_DEFAULTS)


@pytest.mark.parametrize("flag", REFUSED)
def test_a_refused_flag_says_why_in_every_front_end(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=f"{flag} is not offered: ") as caught:
        RunConfig.from_values({flag.replace("_", "-"): True})
    reason = str(caught.value).split(": ", 1)[1]
    assert reason[0].islower()
    assert len(reason.split()) > 2
    assert run(["train", f"--{flag}=1"]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())


def test_nothing_is_refused_and_offered() -> None:
    assert not set(REFUSED) & set(known_names())


def test_flags_that_change_nothing_say_so() -> None:
    fields = ("pre_compute_text_embeddings", "upcast_before_saving")
    for name in fields:
        assert "changes nothing" in (RunConfig.model_fields[name].description or "")


def test_the_switch_for_8_bits_is_an_optimizer() -> None:
    assert RunConfig(use_8bit_adam=True).optimizer == "adamw8bit"
    assert RunConfig(use_8bit_adam=True, optimizer_type="AdamW").optimizer == "adamw8bit"
    assert RunConfig(use_8bit_adam=False).optimizer == "adamw"
    with pytest.raises(ConfigError, match="use_8bit_adam and optimizer=prodigy are two optimizers"):
        RunConfig(use_8bit_adam=True, optimizer="prodigy")


def test_a_command_of_the_dreambooth_page_is_understood() -> None:
    line = (
        "--instance_data_dir=dog --class_data_dir=dogs --with_prior_preservation --prior_loss_weight=1.0 "
        "--instance_prompt=a --class_prompt=b --resolution=512 --train_batch_size=1 --use_8bit_adam "
        "--gradient_accumulation_steps=1 --learning_rate=1e-4 --lr_scheduler=constant --lr_warmup_steps=0 "
        "--num_class_images=200 --max_train_steps=800"
    )
    pairs = [word.removeprefix("--").partition("=") for word in line.split()]
    config = RunConfig.from_values({name: value or True for name, _, value in pairs})
    assert (config.optimizer, config.num_class_images, config.class_prompt) == ("adamw8bit", 200, "b")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
