"""What a checkpoint holds of a run, and what two runs must have in common to go on from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from lorica.data.groups import Group
from lorica.training.config.config import RunConfig
from lorica.training.dataset.sources import EDITS
from lorica.training.loop import Loop
from lorica.training.output.checkpoint import Checkpoint
from lorica.training.output.outputs import base_name

FACTOR, MEMORY, MEAN = "factor/", "optimizer/", "mean/"
# Settings that are facts as they stand.
UNCHANGED = (
    "use_aspect_ratio_buckets",
    "bucket_reso_steps",
    "min_bucket_reso",
    "max_bucket_reso",
    "bucket_no_upscale",
    "enable_wildcards",
    "base_precision",
    "optimizer",
    "use_ema",
    "init_lora_weights",
    "lora_plus_ratio",
    "scale_weight_norms",
    "rescale_zero_terminal_snr",
    "loss_type",
    "huber_delta",
    "huber_schedule",
    "no_cache",
    "unmasked_weight",
    "snr_gamma",
    "soft_min_snr",
    "debiased_estimation",
    "min_timestep",
    "max_timestep",
    "noise_offset",
    "pyramid_noise_levels",
    "pyramid_noise_discount",
    "input_perturbation",
)


def take_checkpoint(loop: Loop, step: int, facts: dict[str, object]) -> Checkpoint:
    """Return the state of a run after ``step`` steps."""
    factors = {f"{FACTOR}{name}": value.detach().clone() for name, value in loop.trainable.named_parameters().items()}
    memory = {f"{MEMORY}{name}": value for name, value in loop.optimizer.state().items()}
    means = loop.average.state() if loop.average is not None else {}
    tensors = {**factors, **memory, **{f"{MEAN}{name}": value for name, value in means.items()}}
    return Checkpoint(step=step, tensors=tensors, facts=facts, scaler=loop.scaler.state_dict())


@torch.no_grad()
def restore_checkpoint(loop: Loop, checkpoint: Checkpoint) -> None:
    """Put a run into the state of a checkpoint whose facts were checked."""
    for name, value in loop.trainable.named_parameters().items():
        value.copy_(checkpoint.tensors[f"{FACTOR}{name}"])
    loop.optimizer.load(_under(MEMORY, checkpoint))
    if loop.average is not None:
        loop.average.load(_under(MEAN, checkpoint))
    if loop.scaler.is_enabled():
        loop.scaler.load_state_dict(dict(checkpoint.scaler))


def facts_of(config: RunConfig, loop: Loop, side: int) -> dict[str, object]:
    """Return what a run must have in common with the checkpoint that it goes on from, by the names of settings."""
    plan = loop.plan
    return {
        "base model": base_name(config),
        "base model content": loop.dataset.identities._asdict(),
        "mixed_precision": str(loop.precision).removeprefix("torch."),
        "recipe": loop.recipe.name,
        "rank": config.rank,
        "alpha": config.alpha or float(config.rank),
        "alpha_pattern": list(config.alpha_pattern),
        "lora_dropout": config.lora_dropout,
        "lora_dropout_pattern": list(config.lora_dropout_pattern),
        "train_text_encoder": config.train_text_encoder,
        "target_modules": [f"{name} {_shape(value)}" for name, value in loop.trainable.named_parameters().items()],
        "pictures and captions": loop.dataset.digest,
        "number of pictures": plan.pictures,
        **_facts_of_sets(loop.dataset.groups),
        "resolution": side,
        "center_crop": config.center_crop,
        "random_crops": config.random_crops,
        "random_flip": config.random_flip,
        "image_interpolation_mode": config.image_interpolation_mode,
        "samples a step (train_batch_size x gradient_accumulation_steps x processes)": plan.size,
        "seed": config.seed,
        "prediction_type": dict(loop.recipe.describe())["modelspec.prediction_type"],
        **{name: getattr(config, name) for name in UNCHANGED},
    }


def _facts_of_sets(groups: Sequence[Group]) -> dict[str, object]:
    """Return what a checkpoint says of the data sets: how they are mixed, and what is done to their captions."""
    facts: dict[str, object] = {"number of data sets": len(groups)}
    for number, group in enumerate(groups):
        where = f"data set {number + 1}, " if len(groups) > 1 else ""
        source: dict[str, object] = {
            name: value for name, value in asdict(group.source).items() if name != "name" or len(groups) > 1
        }
        source["masked_loss"] = group.masked
        edits = {EDITS[name]: value for name, value in asdict(group.edits).items()}
        facts |= {f"{where}{name}": value for name, value in {**source, **edits}.items()}
    return facts


def _under(prefix: str, checkpoint: Checkpoint) -> dict[str, Tensor]:
    tensors = checkpoint.tensors.items()
    return {name.removeprefix(prefix): value for name, value in tensors if name.startswith(prefix)}


def _shape(value: Tensor) -> str:
    return "x".join(str(size) for size in value.shape)
