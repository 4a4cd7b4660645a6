"""The data set of a run, in memory: its pictures as samples, its captions, and which of them each step sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lorica.data.batches import Buckets, bucket_members, members
from lorica.data.groups import Group
from lorica.data.mixture import Random, mixture_members
from lorica.training.dataset.samples import Drawn, Sample
from lorica.training.dataset.texts import Texts
from lorica.training.plan import RunPlan
from lorica.training.recipes.recipe import Identities


@dataclass(frozen=True, slots=True)
class Dataset:
    """The pictures and captions of a run.

    Args:
        examples: one for each picture.
        texts: the captions.
        digest: that of every picture's bytes and every caption, in order.
        identities: the digests of the model that encoded them.
        buckets: the examples of each frame, if there are several.
        files: the name of each picture, with the digest of its content, mask and captions.
    """

    examples: tuple[Sample, ...]
    texts: Texts
    digest: str
    identities: Identities
    buckets: Buckets | None = None
    files: Mapping[str, str] = field(default_factory=dict[str, str])

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def groups(self) -> Sequence[Group]:
        """The data sets that it is made of."""
        return self.texts.groups

    def row(self, step: int, plan: RunPlan, random: Random) -> list[int]:
        """Indices of the pictures that a step sees, on all processes."""
        if self.buckets is not None:
            return bucket_members(step, plan.batch, self.buckets, random, plan.parts)
        if len(self.groups) > 1:
            sources = [group.source for group in self.groups]
            return [entry.position for entry in mixture_members(step, plan.size, sources, random)]
        return members(step, plan.size, plan.pictures, random)

    def loss_weights(self, indices: Sequence[int]) -> Tensor | None:
        """Weight of the loss of each of some samples, ``(b,)``, or None for equal ones."""
        if all(group.source.loss_weight == 1 for group in self.groups):
            return None
        return torch.tensor([self.groups[self.examples[index].item.group].source.loss_weight for index in indices])

    def conditioning(self, indices: Sequence[int], generators: Iterable[torch.Generator]) -> dict[str, Tensor]:
        """Draw the captions of some samples, each with a generator of its own; their conditioning, ``(b, ...)``."""
        pairs = zip(indices, generators, strict=True)
        chosen = [self.texts.conditioning(self.examples[index].item, generator) for index, generator in pairs]
        return {name: torch.stack([row[name] for row in chosen]) for name in chosen[0]}

    def draw(self, index: int, generator: torch.Generator) -> Drawn:
        """Draw a picture as one sample sees it."""
        return self.examples[index].draw(generator)
