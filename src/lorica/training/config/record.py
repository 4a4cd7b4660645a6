"""The configuration as a run records it: for the user, in the metadata of the file, and to resume by."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from lorica.formats.storage.sources import locate
from lorica.training.config.config import RunConfig

# Where a run was, how it was interrupted and where it went say nothing about its result.
PRIVATE = frozenset(
    {
        "output_dir", "overwrite_output_dir", "logging_dir", "cache_dir", "resume_from_checkpoint", "push_to_hub",
        "hub_model_id", "local_rank", "save_model_as",
    }
)  # fmt: skip
FOLDERS = ("train_data_dir", "class_data_dir", "validation_data_dir", "initial_adapter")
# Settings that a resumed run must have as they were. Others may change, such as learning rates and ends of runs.
FACTS = (
    "rank", "alpha_pattern", "lora_dropout", "lora_dropout_pattern", "train_text_encoder", "init_lora_weights",
    "lora_plus_ratio", "scale_weight_norms", "base_precision", "optimizer", "use_ema", "seed", "center_crop",
    "random_crops", "random_flip", "image_interpolation_mode", "use_aspect_ratio_buckets", "bucket_reso_steps",
    "min_bucket_reso", "max_bucket_reso", "bucket_no_upscale", "enable_wildcards", "no_cache", "unmasked_weight",
    "rescale_zero_terminal_snr", "loss_type", "huber_delta", "huber_schedule", "snr_gamma", "soft_min_snr",
    "debiased_estimation", "min_timestep", "max_timestep", "noise_offset", "pyramid_noise_levels",
    "pyramid_noise_discount", "input_perturbation",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A configuration as the files of its run show it.

    Args:
        title: name of the output folder.
        file: name of the adapter file.
        base: name of the base model: a Hub id as it is, a path without its folders.
        trigger: the words that call up what was trained, if there are any.
        toml: the run file, complete with defaults.
        public: every setting that says something about the result, without paths of this machine.
        card: rows for the table of the model card.
        facts: settings that a run must have in common with a checkpoint that it resumes from.
    """

    title: str
    file: str
    base: str
    trigger: str | None
    toml: str
    public: Mapping[str, object]
    card: Mapping[str, str]
    facts: Mapping[str, object]


def record_of(config: RunConfig) -> RunRecord:
    """The record of a configuration."""
    name = config.pretrained_model_name_or_path
    base = _name(name) if os.path.exists(name) else name  # noqa: PTH110  # pathlib raises for names that are too long
    alpha = config.alpha or float(config.rank)
    return RunRecord(
        title=_name(config.output_dir),
        file=config.save_model_as,
        base=base,
        trigger=config.trigger_word or config.instance_prompt,
        toml=config.to_toml(),
        public=_public(config, base),
        card={
            "rank, alpha": f"{config.rank}, {alpha:g}" if config.initial_adapter is None else "of the initial adapter",
            **({"went on from": _name(config.initial_adapter)} if config.initial_adapter else {}),
            "learning rate": f"{config.learning_rate:g}, {config.lr_scheduler}",
        },
        facts={
            "base model": base,
            "alpha": alpha,
            "content of initial_adapter": _content(config.initial_adapter),
            **{name: getattr(config, name) for name in FACTS},
        },
    )


def _public(config: RunConfig, base: str) -> dict[str, object]:
    values = config.model_dump(mode="json", exclude=set(PRIVATE))
    sets = [{**one, **_without_folders(one)} for one in values.pop("datasets")]
    return {**values, **_without_folders(values), "datasets": sets, "pretrained_model_name_or_path": base}


def _without_folders(values: Mapping[str, object]) -> dict[str, object]:
    """The settings that are paths of this machine, reduced to names."""
    named: dict[str, object] = {key: _name(values[key]) for key in FOLDERS if key in values}
    source = values.get("dataset_name")
    return {**named, "dataset_name": _name(source)} if source and os.path.exists(str(source)) else named  # noqa: PTH110


def _content(source: str | None) -> str | None:
    return None if source is None else sha256(locate(source).read_bytes()).hexdigest()


def _name(path: object) -> str:
    return Path(str(path)).resolve().name if path is not None else ""
