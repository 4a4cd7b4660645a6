"""The samples of a run, in memory: every caption and every view of every picture encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.data.items import Item
from lorica.data.views import choose_view
from lorica.training.recipe import Conditioning, Identities, Latents


@dataclass(frozen=True, slots=True)
class Example:
    """One picture, encoded: the latents of each of its views, and its caption's conditioning."""

    item: Item
    views: tuple[Latents, ...]
    conditioning: Conditioning


@dataclass(frozen=True, slots=True)
class Dataset:
    """The encoded pictures.

    Args:
        examples: one for each picture.
        digest: the digest of every picture's bytes and every caption, in order.
        identities: the digests of the model that encoded them.
    """

    examples: tuple[Example, ...]
    digest: str
    identities: Identities

    def __len__(self) -> int:
        return len(self.examples)

    def conditioning(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return the conditioning of some examples, stacked, ``(b, ...)``."""
        chosen = [self.examples[index].conditioning for index in indices]
        return {name: torch.stack([row[name] for row in chosen]) for name in chosen[0]}

    def latents(self, index: int, generator: torch.Generator) -> Tensor:
        """Draw a view of one picture and latents from its distribution, ``(c, h, w)``."""
        views = self.examples[index].views
        mean, std = views[choose_view(len(views), generator)]
        return torch.addcmul(mean, std, torch.randn(mean.shape, generator=generator))
