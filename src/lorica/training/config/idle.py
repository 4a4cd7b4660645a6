"""Settings that change nothing beside others: refused with the combination, or said where they may be meant.

A setting at its default is never idle, so a run file that is complete with defaults can be used again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lorica.training.config.topics import RunSettings

SINGLE_FILES = (".safetensors", ".ckpt")
OF_PREVIEWS = (
    "validation_prompt", "validation_negative_prompt", "validation_epochs", "validation_steps",
    "validation_num_inference_steps", "validation_guidance_scale",
)  # fmt: skip
ADAMS = ("adamw", "adamw8bit", "prodigy")


@dataclass(frozen=True, slots=True)
class Rule:
    """Some settings, when they have an effect, and why they have none otherwise, with what to do."""

    settings: tuple[str, ...]
    acts: Callable[[RunSettings], bool]
    reason: str


def from_hub(config: RunSettings) -> bool:
    """Whether the base model comes from the Hub."""
    name = config.pretrained_model_name_or_path
    return name != "bundled" and not name.endswith(SINGLE_FILES) and not Path(name).exists()


def _names_pictures(config: RunSettings) -> bool:
    return config.train_data_dir is not None or config.dataset_name is not None


def _reads_tables(config: RunSettings) -> bool:
    return config.dataset_name is not None or any(one.dataset_name is not None for one in config.datasets)


def _reads_captions(config: RunSettings) -> bool:
    own = config.instance_prompt is None and _names_pictures(config)
    return own or any(one.instance_prompt is None for one in config.datasets) or not _any_pictures(config)


def _any_pictures(config: RunSettings) -> bool:
    return _names_pictures(config) or bool(config.datasets)


def _edits_tags(config: RunSettings) -> bool:
    edited = (config, *config.datasets)
    return any(one.shuffle_tags or one.tag_dropout or one.keep_tokens_separator for one in edited)


def _holds_out(config: RunSettings) -> bool:
    return config.validation_split is not None or config.validation_data_dir is not None


def _adam(config: RunSettings) -> bool:
    return config.optimizer.lower() in ADAMS


REFUSED_BESIDE: tuple[Rule, ...] = (
    Rule(("revision",), from_hub, "the base model is not from the Hub: leave it out"),
    Rule(
        ("variant",),
        lambda c: from_hub(c) or Path(c.pretrained_model_name_or_path).is_dir(),
        "the base model has one variant alone: leave it out",
    ),
    Rule(("image_column",), _reads_tables, "no table is read: add dataset_name"),
    Rule(("caption_column",), _reads_captions, "instance_prompt is the caption of every picture: leave one out"),
    Rule(
        ("instance_prompt", "repeats", "max_train_samples"),
        lambda c: _names_pictures(c) or not c.datasets,
        "it is that of train_data_dir, which is unset: write it into the table of a data set",
    ),
    Rule(("caption_separator",), _edits_tags, "no tag is moved or dropped: add shuffle_tags or tag_dropout"),
    Rule(
        ("prior_loss_weight",),
        lambda c: c.with_prior_preservation,
        "no class pictures are seen: add with_prior_preservation",
    ),
    Rule(
        ("bucket_reso_steps", "min_bucket_reso", "max_bucket_reso", "bucket_no_upscale"),
        lambda c: c.use_aspect_ratio_buckets,
        "all pictures become squares: add use_aspect_ratio_buckets",
    ),
    Rule(("random_crops",), lambda c: not c.center_crop, "center_crop cuts the middle alone: leave one out"),
    Rule(
        ("random_crops",),
        lambda c: not c.no_cache or c.random_crops == 1,
        "no_cache cuts anywhere each time: leave one out",
    ),
    Rule(("soft_min_snr",), lambda c: c.snr_gamma is not None, "not where it levels off: add snr_gamma, such as 5"),
    Rule(("huber_schedule",), lambda c: c.loss_type != "mse", "mse has no such corner: add loss_type"),
    Rule(("huber_delta",), lambda c: c.loss_type != "mse", "loss_type mse has no such corner: add loss_type huber"),
    Rule(
        ("pyramid_noise_discount",),
        lambda c: c.pyramid_noise_levels > 0,
        "no coarser noise is added: add pyramid_noise_levels, such as 6",
    ),
    Rule(
        ("lr_warmup_steps",),
        lambda c: c.lr_scheduler != "constant",
        "lr_scheduler constant has no warm-up: write constant_with_warmup",
    ),
    Rule(
        ("lr_num_cycles",),
        lambda c: c.lr_scheduler == "cosine_with_restarts",
        "the schedule has no restarts: add lr_scheduler cosine_with_restarts",
    ),
    Rule(
        ("lr_power",),
        lambda c: c.lr_scheduler == "polynomial",
        "the schedule has no power: add lr_scheduler polynomial",
    ),
    Rule(
        ("adam_beta1", "adam_beta2", "adam_epsilon"),
        _adam,
        "this optimizer does not take it: write its own arguments as optimizer_args",
    ),
    Rule(
        ("adam_weight_decay",),
        lambda c: _adam(c) or c.optimizer.lower() == "adafactor",
        "this optimizer does not take it: write optimizer_args weight_decay=...",
    ),
    Rule(("ema_decay",), lambda c: c.use_ema, "there is no running mean: add use_ema"),
    Rule(
        ("text_encoder_lr",),
        lambda c: c.train_text_encoder,
        "the text encoder is not trained: add train_text_encoder",
    ),
    Rule(
        ("validation_loss_steps", "validation_loss_levels"),
        _holds_out,
        "nothing is held out: add validation_split or validation_data_dir",
    ),
    Rule(
        OF_PREVIEWS,
        lambda c: c.num_validation_images > 0,
        "no preview is drawn: raise num_validation_images",
    ),
    Rule(
        ("validation_negative_prompt",),
        lambda c: c.validation_guidance_scale > 1,
        "validation_guidance_scale up to 1 draws without one: raise it",
    ),
    Rule(
        ("logging_dir",),
        lambda c: (c.report_to or "none").lower() != "none",
        "nothing is tracked: add report_to, such as tensorboard",
    ),
    Rule(("hub_model_id",), lambda c: c.push_to_hub, "nothing is uploaded: add push_to_hub"),
)

SAID_BESIDE: tuple[Rule, ...] = (
    Rule(("num_train_epochs",), lambda c: c.max_train_steps is None, "max_train_steps says how long the run is"),
    Rule(
        ("repeats",),
        lambda c: c.max_train_steps is None or len(c.datasets) + c.with_prior_preservation > 0,
        "with max_train_steps and one data set every picture comes as often as the others anyway",
    ),
    Rule(
        ("cache_dir",),
        lambda c: from_hub(c) or _reads_tables(c),
        "nothing is fetched from the Hub",
    ),
    Rule(
        ("checkpointing_start_step",),
        lambda c: c.max_train_steps is None or c.checkpointing_start_step <= c.max_train_steps,
        "the run ends before checkpointing_start_step: the last step alone is a checkpoint",
    ),
)


def refusals(config: RunSettings) -> Iterator[str]:
    """What is wrong with settings that change nothing beside others."""
    for name, _, rule in _idle(config, REFUSED_BESIDE):
        yield f"{name} is set, but {rule.reason}"


def remarks(config: RunSettings) -> list[str]:
    """What to say of settings that change nothing beside others, and may be meant all the same."""
    return [f"{name} {value} changes nothing: {rule.reason}" for name, value, rule in _idle(config, SAID_BESIDE)]


def _idle(config: RunSettings, rules: tuple[Rule, ...]) -> Iterator[tuple[str, object, Rule]]:
    for rule in rules:
        for name in rule.settings:
            value = getattr(config, name)
            if value != type(config).model_fields[name].default and not rule.acts(config):
                yield name, value, rule
