"""Every setting changes something that can be seen, is refused beside what makes it idle, or says that it does not.

A new setting fails here until it stands in the table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from torch import nn

from lorica.adapters import Adapter, LoRA
from lorica.errors import ConfigError, LoRAError
from lorica.formats import write
from lorica.training.config.config import RunConfig
from lorica.training.config.idle import remarks
from lorica.training.config.optimizer import OptimizerSettings
from lorica.training.optimizer import Optimizer
from lorica.training.output.metrics import METRICS
from lorica.training.run import train
from tiny_training import SIDE, write_pictures

Settings = Callable[..., RunConfig]
THREE = ("red", "green", "blue")
FOLDERS = ("train_data_dir", "class_data_dir", "validation_data_dir", "dataset_name", "initial_adapter")


class Seen(NamedTuple):
    """A change of a setting that a run of three steps shows, and what both runs have besides."""

    value: Any
    besides: dict[str, Any] = {}  # noqa: RUF012  # never changed


IN_A_RUN: dict[str, Seen] = {
    "train_data_dir": Seen("others"),
    "dataset_name": Seen("table.jsonl", {"train_data_dir": None}),
    "instance_prompt": Seen("a thing"),
    "caption_column": Seen("other", {"train_data_dir": "columns"}),
    "image_column": Seen("other", {"train_data_dir": None, "dataset_name": "table.jsonl", "caption_column": "text"}),
    "on_bad_image": Seen("skip", {"train_data_dir": "broken"}),
    "masked_loss": Seen(True, {"train_data_dir": "masked"}),
    "unmasked_weight": Seen(0.5, {"train_data_dir": "masked", "masked_loss": True}),
    "shuffle_tags": Seen(True, {"train_data_dir": "tags"}),
    "keep_tokens": Seen(2, {"train_data_dir": "tags", "shuffle_tags": True}),
    "keep_tokens_separator": Seen("|||", {"train_data_dir": "tags", "shuffle_tags": True}),
    "caption_separator": Seen(";", {"train_data_dir": "tags", "shuffle_tags": True}),
    "caption_dropout": Seen(0.9),
    "tag_dropout": Seen(0.9, {"train_data_dir": "tags"}),
    "trigger_word": Seen("star"),
    "caption_prefix": Seen("star"),
    "caption_suffix": Seen("star"),
    "enable_wildcards": Seen(True, {"train_data_dir": "tags"}),
    "on_long_caption": Seen("stop", {"instance_prompt": "a red circle " * 20}),
    "max_train_samples": Seen(2),
    "repeats": Seen(5, {"datasets": ({"folder": "others"},)}),
    "datasets": Seen(({"folder": "others"},)),
    "with_prior_preservation": Seen(True, {"class_data_dir": "others"}),
    "class_data_dir": Seen("columns", {"with_prior_preservation": True, "class_data_dir": "others"}),
    "class_prompt": Seen("a star", {"with_prior_preservation": True, "class_data_dir": "others"}),
    "num_class_images": Seen(1, {"with_prior_preservation": True, "class_data_dir": "others"}),
    "prior_loss_weight": Seen(0.3, {"with_prior_preservation": True, "class_data_dir": "others"}),
    "resolution": Seen(40),
    "use_aspect_ratio_buckets": Seen(True),
    "bucket_reso_steps": Seen(16, {"use_aspect_ratio_buckets": True}),
    "min_bucket_reso": Seen(32, {"use_aspect_ratio_buckets": True}),
    "max_bucket_reso": Seen(40, {"use_aspect_ratio_buckets": True}),
    "bucket_no_upscale": Seen(True, {"use_aspect_ratio_buckets": True, "resolution": 64}),
    "center_crop": Seen(True),
    "random_flip": Seen(True),
    "image_interpolation_mode": Seen("nearest", {"resolution": 24}),
    "no_cache": Seen(True),
    "random_crops": Seen(7),
    "train_batch_size": Seen(3),
    "gradient_accumulation_steps": Seen(2),
    "num_train_epochs": Seen(2, {"max_train_steps": None, "num_train_epochs": 1}),
    "max_train_steps": Seen(4),
    "learning_rate": Seen(3e-3),
    "text_encoder_lr": Seen(3e-3, {"train_text_encoder": True}),
    "learning_rate_pattern": Seen(("*.attn2.*=1e-3",)),
    "lora_plus_ratio": Seen(4.0),
    "scale_lr": Seen(True),
    "lr_scheduler": Seen("linear"),
    "lr_warmup_steps": Seen(2, {"lr_scheduler": "linear"}),
    "lr_num_cycles": Seen(2, {"lr_scheduler": "cosine_with_restarts", "max_train_steps": 4}),
    "lr_power": Seen(2.0, {"lr_scheduler": "polynomial"}),
    "optimizer": Seen("torch.optim.SGD"),
    "optimizer_args": Seen(("weight_decay=0.5",)),
    "use_ema": Seen(True),
    "ema_decay": Seen(0.05, {"use_ema": True}),
    "max_grad_norm": Seen(1e-3, {"optimizer": "torch.optim.SGD"}),
    "adam_beta1": Seen(0.1),
    "adam_beta2": Seen(0.1),
    "adam_weight_decay": Seen(0.5),
    "adam_epsilon": Seen(0.1),
    "prediction_type": Seen("epsilon"),
    "rescale_zero_terminal_snr": Seen(True),
    "loss_type": Seen("huber"),
    "huber_delta": Seen(0.5, {"loss_type": "huber"}),
    "huber_schedule": Seen("snr", {"loss_type": "huber"}),
    "snr_gamma": Seen(1.0),
    "soft_min_snr": Seen(True, {"snr_gamma": 1.0}),
    "debiased_estimation": Seen(True),
    "min_timestep": Seen(900),
    "max_timestep": Seen(100),
    "noise_offset": Seen(0.3),
    "pyramid_noise_levels": Seen(3),
    "pyramid_noise_discount": Seen(0.8, {"pyramid_noise_levels": 3}),
    "input_perturbation": Seen(0.5),
    "rank": Seen(2),
    "alpha": Seen(1.0),
    "rank_pattern": Seen(("*.to_k=1",)),
    "alpha_pattern": Seen(("*.to_k=1",)),
    "init_lora_weights": Seen("orthogonal"),
    "initial_adapter": Seen("initial.safetensors", {"rank": 4}),
    "scale_weight_norms": Seen(1e-4),
    "lora_dropout": Seen(0.5),
    "lora_dropout_pattern": Seen(("*.to_k=0.5",)),
    "target_modules": Seen(("*.to_k",)),
    "train_text_encoder": Seen(True),
    "mixed_precision": Seen("bf16"),
    "base_precision": Seen("bf16"),
    "validation_split": Seen(0.3),
    "validation_data_dir": Seen("others"),
    "validation_loss_steps": Seen(1, {"validation_split": 0.3}),
    "validation_loss_levels": Seen(2, {"validation_split": 0.3}),
    "output_dir": Seen("elsewhere"),
    "checkpointing_steps": Seen(1),
    "checkpointing_epochs": Seen(1, {"train_batch_size": 5}),
    "checkpointing_start_step": Seen(2, {"checkpointing_steps": 1}),
    "checkpoints_total_limit": Seen(1, {"checkpointing_steps": 1}),
    "save_model_as": Seen("mossy"),
    "validation_prompt": Seen("a red star", {"num_validation_images": 1}),
    "validation_negative_prompt": Seen("blue", {"num_validation_images": 1, "validation_prompt": "a red star"}),
    "num_validation_images": Seen(1),
    "validation_epochs": Seen(1, {"num_validation_images": 1, "train_batch_size": 5}),
    "validation_steps": Seen(1, {"num_validation_images": 1}),
    "validation_at_start": Seen(False, {"num_validation_images": 1, "validation_prompt": "a red star"}),
    "validation_num_inference_steps": Seen(1, {"num_validation_images": 1}),
    "validation_guidance_scale": Seen(1.0, {"num_validation_images": 1}),
    "report_to": Seen("tensorboard"),
    "logging_dir": Seen("elsewhere", {"report_to": "tensorboard"}),
    "seed": Seen(5),
    "variant": Seen("fp8"),
}  # fmt: skip
# What a run of three steps on a CPU does not show, and where it is shown.
ELSEWHERE = {
    "pretrained_model_name_or_path": "test_base.py",
    "revision": "needs the Hub: refused otherwise, below",
    "cache_dir": "needs the Hub: said otherwise, below",
    "dataset_config_name": "needs the Hub: refused otherwise, test_sources.py",
    "dataloader_num_workers": "threads, whatever they give: test_encoding.py",
    "use_8bit_adam": "test_flags.py",
    "enable_xformers_memory_efficient_attention": "needs a GPU: refused otherwise, test_base.py",
    "allow_tf32": "needs a GPU: said otherwise, below",
    "gradient_checkpointing": "memory alone: test_memory.py",
    "remember_less": "memory alone: test_memory.py",
    "overwrite_output_dir": "test_run.py",
    "resume_from_checkpoint": "test_run.py",
    "push_to_hub": "test_hub.py",
    "hub_model_id": "test_hub.py",
}


def test_every_setting_stands_in_the_table() -> None:
    silent = {name for name, field in RunConfig.model_fields.items() if says_that_it_is_idle(field.description or "")}
    assert {*IN_A_RUN, *ELSEWHERE, *silent} == set(RunConfig.model_fields)
    assert not IN_A_RUN.keys() & (ELSEWHERE.keys() | silent)


def says_that_it_is_idle(description: str) -> bool:
    return description.startswith(("changes nothing", "ignored", "always on"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of pictures for every purpose, and an adapter."""
    top = tmp_path_factory.mktemp("audit")
    pictures, others = write_pictures(top / "pictures"), write_pictures(top / "others", 2)
    (others / "red.txt").write_text("another red circle")
    for name in ("columns", "broken", "masked", "tags"):
        write_pictures(top / name, 3)
    write_lines(
        top / "columns" / "metadata.jsonl",
        [{"file_name": f"{color}.png", "text": color, "other": f"a {color} star"} for color in THREE],
    )
    row = {"image": str(pictures / "red.png"), "other": str(pictures / "blue.png"), "text": "a circle"}
    write_lines(top / "table.jsonl", [row])
    (top / "broken" / "red.png").write_bytes(b"no picture")
    (top / "masked" / "mask").mkdir()
    for color in THREE:
        mask = Image.new("L", (SIDE, SIDE))
        mask.paste(255, (0, 0, SIDE // 2, SIDE))
        mask.save(top / "masked" / "mask" / f"{color}.png")
        (top / "tags" / f"{color}.txt").write_text(f"red; star, {color}, ||| large; {{white|black}}, circle, square")
    layer = LoRA(torch.ones(2, 16) * 0.1, torch.ones(16, 2) * 0.1, 2.0)
    write(Adapter({"unet": {"mid_block.attentions.0.proj_in": layer}}), top / "initial.safetensors")
    return top


def write_lines(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture(scope="module")
def known() -> dict[str, object]:
    """What runs without the change showed, by their settings: many settings are compared with the same run."""
    return {}


@pytest.mark.parametrize("name", IN_A_RUN)
def test_a_setting_changes_what_a_run_shows(
    name: str, settings: Settings, folder: Path, known: dict[str, object]
) -> None:
    value, besides = IN_A_RUN[name]
    common = {"train_data_dir": "pictures", "max_train_steps": 3, **besides}
    if common.get("num_validation_images"):
        common["validation_num_inference_steps"] = 2
    key = repr(sorted(common.items(), key=str))
    if key not in known:
        known[key] = trace(settings, folder, common)
    after = trace(settings, folder, common | {name: value})
    assert after != known[key]
    assert not (isinstance(after, str) and isinstance(known[key], str)), after


def trace(settings: Settings, folder: Path, changes: Mapping[str, Any]) -> object:
    """What a run leaves and says, without what differs by itself and what merely repeats the settings."""
    with TemporaryDirectory(dir=folder) as name:
        top = Path(name)
        values = {key: placed(folder, key, value) for key, value in changes.items()}
        values["output_dir"] = top / str(changes.get("output_dir", "out"))
        if "initial_adapter" in values:
            values["rank"] = 4
        try:
            result = train(settings(**values), quiet=True)
        except LoRAError as error:
            return str(error)
        files = [path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file()]
        layers = [
            (path, layer.alpha, [tensor.numpy().tobytes() for tensor in layer.tensors.values()])
            for _, path, layer in result.adapter.layers()
        ]
        return (
            (result.output_dir / METRICS).read_text(),
            sorted(file for file in files if "/previews/" in file or file.endswith(".safetensors")),
            {file.rsplit("/", 2)[0] for file in files if "tfevents" in file},
            [path.read_bytes() for path in sorted(top.rglob("step-*.png"))],
            layers,
        )


def placed(folder: Path, name: str, value: Any) -> Any:
    """The path of a name in the test's folder, for settings that are paths."""
    if name in FOLDERS and value is not None:
        return str(folder / value)
    if name == "datasets" and value is not None:
        return tuple({key: str(folder / text) for key, text in one.items()} for one in value)
    return value


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr_warmup_steps": 500}, "lr_warmup_steps is set, but lr_scheduler constant has no warm-up: write"),
        ({"lr_num_cycles": 3}, "lr_num_cycles is set, but the schedule has no restarts"),
        ({"lr_power": 2, "lr_scheduler": "cosine"}, "lr_power is set, but the schedule has no power"),
        ({"optimizer": "prodigy", "learning_rate": 1e-4}, "prodigy finds its rate and multiplies it by learning_rate"),
        ({"optimizer": "torch.optim.SGD", "adam_beta1": 0.5}, "adam_beta1 is set, but this optimizer does not take it"),
        ({"optimizer": "adafactor", "adam_epsilon": 0.5}, "adam_epsilon is set, but this optimizer does not take it"),
        ({"ema_decay": 0.5}, "ema_decay is set, but there is no running mean: add use_ema"),
        ({"huber_delta": 0.5}, "huber_delta is set, but loss_type mse has no such corner"),
        ({"pyramid_noise_discount": 0.5}, "pyramid_noise_discount is set, but no coarser noise is added"),
        ({"prior_loss_weight": 0.5}, "prior_loss_weight is set, but no class pictures are seen"),
        ({"min_bucket_reso": 64}, "min_bucket_reso is set, but all pictures become squares"),
        ({"random_crops": 8, "center_crop": True}, "random_crops is set, but center_crop cuts the middle alone"),
        ({"random_crops": 8, "no_cache": True}, "random_crops is set, but no_cache cuts anywhere"),
        ({"revision": "main"}, "revision is set, but the base model is not from the Hub"),
        ({"variant": "fp16"}, "variant is set, but the base model has one variant alone"),
        ({"image_column": "picture"}, "image_column is set, but no table is read"),
        (
            {"caption_column": "x", "instance_prompt": "y", "train_data_dir": "z"},
            "caption_column is set, but instance_prompt is the caption of every picture",
        ),
        ({"repeats": 3, "datasets": [{"folder": "a"}]}, "repeats is set, but it is that of train_data_dir"),
        ({"caption_separator": ";"}, "caption_separator is set, but no tag is moved or dropped"),
        ({"validation_loss_levels": 9}, "validation_loss_levels is set, but nothing is held out"),
        ({"validation_prompt": "x", "num_validation_images": 0}, "validation_prompt is set, but no preview is drawn"),
        (
            {"validation_negative_prompt": "x", "validation_guidance_scale": 1},
            "validation_negative_prompt is set, but validation_guidance_scale up to 1 draws without one",
        ),
        ({"logging_dir": "x"}, "logging_dir is set, but nothing is tracked"),
        ({"hub_model_id": "x/y"}, "hub_model_id is set, but nothing is uploaded"),
        ({"checkpointing_steps": 5, "checkpointing_epochs": 1}, "checkpointing_epochs and checkpointing_steps are"),
        ({"initial_adapter": "x", "rank": 8}, "rank is set, but initial_adapter brings it along"),
    ],
)  # fmt: skip
def test_an_idle_setting_is_refused_with_what_makes_it_so(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_values(values)
    assert message in str(caught.value)


def test_what_may_be_meant_is_said(settings: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = settings(
        max_train_steps=1,
        num_train_epochs=3,
        repeats=4,
        cache_dir=tmp_path,
        allow_tf32=True,
        checkpointing_start_step=9,
    )
    assert len(remarks(config)) == 4
    train(config)
    said = capsys.readouterr().err
    for text in (
        "num_train_epochs 3 changes nothing: max_train_steps says how long the run is",
        "repeats 4 changes nothing",
        "cache_dir",
        "checkpointing_start_step 9 changes nothing: the run ends before",
        "allow_tf32 changes nothing",
    ):
        assert text in said


def test_a_complete_run_file_is_never_idle(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(RunConfig().to_toml())
    assert RunConfig.from_toml(tmp_path / "run.toml") == RunConfig()


@pytest.mark.parametrize("steps", [{"max_train_steps": 5}, {"max_train_steps": None, "num_train_epochs": 1}])
def test_a_warm_up_ends_before_the_run(settings: Settings, steps: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"lr_warmup_steps is 9 and the run has \d steps, so learning_rate is never"):
        train(settings(lr_scheduler="linear", lr_warmup_steps=9, **steps), quiet=True)


def test_prodigy_starts_from_a_factor_of_1_and_its_own_rate_is_recorded(settings: Settings) -> None:
    assert RunConfig(optimizer="prodigy").learning_rate == 1
    assert RunConfig.from_values({"optimizer_type": "Prodigy", "learning-rate": "0.5"}).learning_rate == 0.5
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    optimizer = Optimizer({"unet": weight}, {"unet": 0.5}, settings().part(OptimizerSettings), 3)
    optimizer.set_rates(0)
    assert optimizer.rate() == 0.5
    optimizer.inner.param_groups[0]["d"] = 1e-3  # as prodigyopt keeps what it found
    assert optimizer.rate() == pytest.approx(5e-4)
