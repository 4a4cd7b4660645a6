"""The samples of a run, in memory: every view of every picture encoded once, and its captions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lorica.data.batches import Buckets, bucket_members, members
from lorica.data.buckets import SizeConditioning
from lorica.data.groups import Group
from lorica.data.images import choose_view
from lorica.data.items import Item
from lorica.data.mixture import Random, mixture_members
from lorica.training.dataset.texts import Texts
from lorica.training.plan import Plan
from lorica.training.recipes.recipe import Identities, Latents


class Drawn(NamedTuple):
    """What a sample sees of a picture.

    Args:
        latents: ``(c, h, w)``.
        sizes: how the picture was cut, ``(6,)``; see :class:`SizeConditioning`.
        mask: where the latents count, ``(1, h, w)``; None for all alike.
    """

    latents: Tensor
    sizes: Tensor
    mask: Tensor | None = None


class Sample(Protocol):
    """One picture of a run: encoded, or to be encoded each time it is drawn."""

    @property
    def item(self) -> Item:
        """The picture."""
        ...

    @property
    def has_mask(self) -> bool:
        """Whether a mask says where it counts."""
        ...

    def draw(self, generator: torch.Generator) -> Drawn:
        """Draw a view, and latents from its distribution."""
        ...


@dataclass(frozen=True, slots=True)
class Example:
    """One picture, encoded: the latents of each of its views, how each was cut, and the masks if it has one."""

    item: Item
    views: tuple[Latents, ...]
    sizes: tuple[SizeConditioning, ...]
    masks: tuple[Tensor, ...] = ()

    @property
    def has_mask(self) -> bool:
        """Whether a mask says where it counts."""
        return bool(self.masks)

    def draw(self, generator: torch.Generator) -> Drawn:
        """Draw a view, and latents from its distribution."""
        number = choose_view(len(self.views), generator)
        mean, std = self.views[number]
        latents = torch.addcmul(mean, std, torch.randn(mean.shape, generator=generator))
        return Drawn(latents, self.sizes[number].row(), self.masks[number] if self.masks else None)


@dataclass(frozen=True, slots=True)
class Dataset:
    """The encoded pictures.

    Args:
        examples: one for each picture.
        texts: the captions.
        digest: the digest of every picture's bytes and every caption, in order.
        identities: the digests of the model that encoded them.
        buckets: the examples of each frame, if there are several.
    """

    examples: tuple[Sample, ...]
    texts: Texts
    digest: str
    identities: Identities
    buckets: Buckets | None = None

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def groups(self) -> Sequence[Group]:
        """The data sets."""
        return self.texts.groups

    def row(self, step: int, plan: Plan, random: Random) -> list[int]:
        """Return the pictures that a step sees, on all processes."""
        if self.buckets is not None:
            return bucket_members(step, plan.batch, self.buckets, random, plan.parts)
        if len(self.groups) > 1:
            sources = [group.source for group in self.groups]
            return [entry.position for entry in mixture_members(step, plan.size, sources, random)]
        return members(step, plan.size, plan.pictures, random)

    def loss_weights(self, indices: Sequence[int]) -> Tensor | None:
        """Return how much the loss of each of some samples counts, ``(b,)``, or None for all alike."""
        if all(group.source.loss_weight == 1 for group in self.groups):
            return None
        return torch.tensor([self.groups[self.examples[index].item.group].source.loss_weight for index in indices])

    def conditioning(self, indices: Sequence[int], generators: Iterable[torch.Generator]) -> dict[str, Tensor]:
        """Draw the captions of some examples, one generator each; return their conditioning, stacked, ``(b, ...)``."""
        pairs = zip(indices, generators, strict=True)
        chosen = [self.texts.conditioning(self.examples[index].item, generator) for index, generator in pairs]
        return {name: torch.stack([row[name] for row in chosen]) for name in chosen[0]}

    def draw(self, index: int, generator: torch.Generator) -> Drawn:
        """Draw what one sample sees of a picture."""
        return self.examples[index].draw(generator)
