"""The samples of a run, in memory: every view of every picture encoded once, and its captions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.data.bucket_batches import Buckets
from lorica.data.items import Item
from lorica.data.views import choose_view
from lorica.training.recipe import Identities, Latents
from lorica.training.texts import Texts


@dataclass(frozen=True, slots=True)
class Example:
    """One picture, encoded: the latents of each of its views."""

    item: Item
    views: tuple[Latents, ...]


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

    examples: tuple[Example, ...]
    texts: Texts
    digest: str
    identities: Identities
    buckets: Buckets | None = None

    def __len__(self) -> int:
        return len(self.examples)

    def conditioning(self, indices: Sequence[int], generators: Iterable[torch.Generator]) -> dict[str, Tensor]:
        """Draw the captions of some examples, one generator each; return their conditioning, stacked, ``(b, ...)``."""
        pairs = zip(indices, generators, strict=True)
        chosen = [self.texts.conditioning(self.examples[index].item, generator) for index, generator in pairs]
        return {name: torch.stack([row[name] for row in chosen]) for name in chosen[0]}

    def latents(self, index: int, generator: torch.Generator) -> Tensor:
        """Draw a view of one picture and latents from its distribution, ``(c, h, w)``."""
        views = self.examples[index].views
        mean, std = views[choose_view(len(views), generator)]
        return torch.addcmul(mean, std, torch.randn(mean.shape, generator=generator))
