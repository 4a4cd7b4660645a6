"""The state of a run in a checkpoint, and the facts that two runs must share to resume from each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from lorica.data.groups import Group
from lorica.training.dataset.sources import EDITS
from lorica.training.loop import Loop
from lorica.training.output.checkpoint import Checkpoint

FACTOR, OPTIMIZER, MEAN = "factor/", "optimizer/", "mean/"


def take_checkpoint(loop: Loop, step: int, facts: Mapping[str, object]) -> Checkpoint:
    """The state of a run after ``step`` steps."""
    factors = {f"{FACTOR}{name}": value.detach().clone() for name, value in loop.trainable.named_parameters().items()}
    moments = {f"{OPTIMIZER}{name}": value for name, value in loop.optimizer.state().items()}
    means = loop.average.state() if loop.average is not None else {}
    tensors = {**factors, **moments, **{f"{MEAN}{name}": value for name, value in means.items()}}
    return Checkpoint(step=step, tensors=tensors, facts=facts, scaler=loop.scaler.state_dict())


@torch.no_grad()
def restore_checkpoint(loop: Loop, checkpoint: Checkpoint) -> None:
    """Restore the state of a checkpoint whose facts were checked."""
    for name, value in loop.trainable.named_parameters().items():
        value.copy_(checkpoint.tensors[f"{FACTOR}{name}"])
    loop.optimizer.load(_under(OPTIMIZER, checkpoint))
    if loop.average is not None:
        loop.average.load(_under(MEAN, checkpoint))
    if loop.scaler.is_enabled():
        loop.scaler.load_state_dict(dict(checkpoint.scaler))


def facts_of(loop: Loop, side: int, settings: Mapping[str, object]) -> dict[str, object]:
    """Everything that a run must have in common with a checkpoint that it resumes from, by the names of settings.

    To ``settings``, which are facts as they stand, come those of the model, the pictures and the loop.
    """
    return {
        **settings,
        "base model content": loop.dataset.identities._asdict(),
        "mixed_precision": str(loop.precision).removeprefix("torch."),
        "recipe": loop.recipe.name,
        "target_modules": [f"{name} {_shape(value)}" for name, value in loop.trainable.named_parameters().items()],
        "pictures and captions": {"digest": loop.dataset.digest, "files": dict(loop.dataset.files)},
        "number of pictures": loop.plan.pictures,
        **_facts_of_sets(loop.dataset.groups),
        "resolution": side,
        "samples a step (train_batch_size x gradient_accumulation_steps x processes)": loop.plan.size,
        "prediction_type": dict(loop.recipe.describe())["modelspec.prediction_type"],
    }


def _facts_of_sets(groups: Sequence[Group]) -> dict[str, object]:
    """The mixture of the data sets, and the edits of their captions."""
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
