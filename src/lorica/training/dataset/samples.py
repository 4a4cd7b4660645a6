"""Pictures of a run as samples: encoded before it and kept in the cache, or encoded each time they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lorica.data.buckets import Size, SizeConditioning, size_conditioning
from lorica.data.decoding import load_picture
from lorica.data.images import View, choose_view, fit, to_tensor
from lorica.data.items import Item
from lorica.data.masks import latent_mask, mask_source, open_mask
from lorica.training.dataset.framing import Framing
from lorica.training.recipes.recipe import Latents, Recipe


class Drawn(NamedTuple):
    """A picture as one sample sees it.

    Args:
        latents: ``(c, h, w)``.
        sizes: how the picture was cut, ``(6,)``; see :class:`SizeConditioning`.
        mask: weight of each place of the latents, ``(1, h, w)``; None for equal ones.
    """

    latents: Tensor
    sizes: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A picture encoded before the run: for each view its latents, how it was cut, and its mask if there is one.

    Latents and masks are read from the cache when they are drawn, where there is one.
    """

    item: Item
    views: Sequence[Latents]
    sizes: tuple[SizeConditioning, ...]
    masks: Sequence[Tensor] = ()

    @property
    def has_mask(self) -> bool:
        """Whether a mask weights its places."""
        return bool(self.masks)

    def draw(self, generator: torch.Generator) -> Drawn:
        """Draw a view, and latents from its distribution."""
        number = choose_view(len(self.views), generator)
        latents = _latents_from(self.views[number], generator)
        return Drawn(latents, self.sizes[number].row(), self.masks[number] if self.masks else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveExample:
    """A picture encoded each time it is drawn, so that its crops lie anywhere.

    Args:
        item: the picture.
        frame: the size it is cut to.
        framing: how it is cut.
        recipe: encodes it.
        has_mask: whether a mask weights its places.
    """

    item: Item
    frame: Size
    framing: Framing
    recipe: Recipe
    has_mask: bool

    def draw(self, generator: torch.Generator) -> Drawn:
        """Draw a crop anywhere in the picture, mirrored or not, and latents from its distribution."""
        view = draw_view(generator, center=self.framing.crops == 1, flip=self.framing.flip)
        content, (width, height) = self.item.read(), self.frame
        picture = load_picture(content, self.item.path)
        pixels = to_tensor(fit(picture, height, width, view, self.framing.interpolation))
        latents = _latents_from(self.recipe.encode_picture(pixels), generator)
        source = mask_source(self.item.path, content, self.item.mask) if self.has_mask else None
        factor = height // latents.shape[1]
        mask = latent_mask(open_mask(source, picture.size), height, width, view, factor) if source else None
        return Drawn(latents, size_conditioning(Size(*picture.size), self.frame, view).row(), mask)


Sample = Example | LiveExample


def draw_view(generator: torch.Generator, *, center: bool, flip: bool) -> View:
    """Draw where a picture is cut, and whether it is mirrored."""
    left, top, mirrored = torch.rand(3, generator=generator).tolist()
    cut = View() if center else View(left, top)
    return cut._replace(flip=flip and mirrored < 0.5)


def _latents_from(distribution: Latents, generator: torch.Generator) -> Tensor:
    mean, std = distribution
    return torch.addcmul(mean, std, torch.randn(mean.shape, generator=generator))
