"""Batch index of a forward: which sample's strengths each row of a batch takes.

A batch may be several times as long as the list of samples. First the whole list is repeated ``guidance`` times (the
unconditional half stands before the conditional one), then each sample is repeated in its place (several pictures a
prompt, and the frames of a video that are merged into the batch).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from lorica.errors import StateError

# Layers, by the class of what they are a part of, that get the tokens of all samples in one row, in another order or
# each sample with as many as it has: which token is whose cannot be told.
MIXED: tuple[tuple[str, str], ...] = (("*", "*.experts.*"), ("ZImageTransformer2DModel", "cap_embedder.*"))


def check_apart(components: Mapping[str, nn.Module], name: str, strengths: Mapping[tuple[str, str], float]) -> None:
    """Raise if an adapter acts where samples cannot be told apart.

    Raises:
        StateError: naming a layer.
    """
    for (component, path), strength in strengths.items():
        kind = type(components[component]).__name__
        if strength and any(fnmatchcase(kind, known) and fnmatchcase(path, glob) for known, glob in MIXED):
            raise StateError(
                f"{name!r} changes {component}.{path}, which sees the tokens of all samples in one row, so no sample "
                "can have it by itself. Use set(), which is for all of them alike."
            )


class ForwardContext(threading.local):
    """What is known of the batch in the forward that a thread is inside.

    Attributes:
        halves: how often the list of samples stands in it; None if that is not known.
        images: how many pictures of each prompt the pipeline's call makes; None outside of such a call.
        called: ``id`` of the layers whose bank has run, while that is observed.
    """

    def __init__(self) -> None:
        self.halves: int | None = None
        self.images: int | None = None
        self.called: set[int] | None = None


context = ForwardContext()


def for_batch(strength: Tensor, batch: int, guidance: int | None = None) -> Tensor:
    """One row of strengths for each row of a batch; strengths that all samples share are returned as they are.

    Args:
        strength: ``(1 or samples, R)``.
        batch: how many rows the layer got.
        guidance: how often the list of samples stands in the batch; None stands for 2 if the batch is an even multiple
            of the list, and 1 otherwise.

    Raises:
        StateError: if the batch is no multiple.
    """
    if len(strength) == 1:
        return strength
    halves, times = repeats(len(strength), batch, guidance)
    return strength.repeat(halves, 1).repeat_interleave(times, dim=0) if batch > len(strength) else strength


def repeats(samples: int, batch: int, guidance: int | None = None) -> tuple[int, int]:
    """How often the list of samples stands in a batch, and how often each sample is repeated in its place.

    Raises:
        StateError: if the batch is no multiple.
    """
    times, rest = divmod(batch, samples)
    if rest or not times:
        raise StateError(
            f"strengths were set for {samples} samples, but a layer got a batch of {batch}, which is no multiple "
            "of it. Give per_sample one entry for each prompt."
        )
    given = context.halves or guidance or 2 - times % 2
    halves = given if times % given == 0 else 1
    return halves, times // halves


def for_compiled_batch(strength: Tensor, batch: int, layout: Tensor) -> Tensor:
    """The same as :func:`for_batch`, computed in the graph, so that another number of samples compiles nothing again.

    Args:
        strength: ``(rows, R)``, of which the first ``samples`` are read.
        batch: how many rows the layer got.
        layout: ``(samples, guidance, images)`` as whole numbers; 0 where guidance or images are not known.
    """
    if len(strength) == 1:
        return strength
    samples, guidance, images = layout.unbind()
    times = torch.div(batch, samples, rounding_mode="floor").clamp(min=1)
    by_images = torch.where((images > 0) & (times % images.clamp(min=1) == 0), times // images.clamp(min=1), 0)
    given = torch.where(guidance > 0, guidance, torch.where(by_images > 0, by_images, 2 - times % 2))
    halves = torch.where(times % given == 0, given, 1)
    index = torch.arange(batch, device=strength.device) // (times // halves) % samples
    return strength[index]


def halves_of(samples: int, batch: int, guidance: int | None) -> int | None:
    """How often the list of samples stands in the batch that a whole model is called with.

    A layer inside may have merged frames or points into its batch, so its length alone does not tell. How many pictures
    of each prompt a pipeline makes is known from its call, and what remains are the halves of its guidance.

    Args:
        samples: how long the list is.
        batch: how many pictures or texts the model is called with.
        guidance: how often the list stands in the batch, if the user said so.

    Returns:
        None if the batch is no multiple, or no pipeline tells how many pictures of a prompt it holds.
    """
    times, rest = divmod(batch, samples)
    if rest or not times:
        return None
    if guidance is not None:
        return guidance if times % guidance == 0 else 1
    if times == 1:
        return 1
    return times // context.images if context.images and times % context.images == 0 else None
