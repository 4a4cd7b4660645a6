"""Pictures that are cut and encoded anew each time they are seen, for cuts that cannot be cached."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorica.data.buckets import Size, size_conditioning
from lorica.data.images import View, fit, load_picture, to_tensor
from lorica.data.items import Item
from lorica.data.masks import MaskSource, latent_mask, mask_source, open_mask
from lorica.training.dataset.dataset import Drawn
from lorica.training.dataset.framing import Framing
from lorica.training.recipes.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveExample:
    """One picture, to be encoded when it is drawn.

    Args:
        item: the picture.
        frame: what it is cut to.
        framing: how.
        recipe: encodes it.
        has_mask: whether a mask says where it counts.
    """

    item: Item
    frame: Size
    framing: Framing
    recipe: Recipe
    has_mask: bool

    def draw(self, generator: torch.Generator) -> Drawn:
        """Draw a cut anywhere in the picture, mirrored or not, and latents from its distribution."""
        view = draw_view(generator, center=self.framing.crops == 1, flip=self.framing.flip)
        content = self.item.read()
        picture = load_picture(content, self.item.path)
        cut = fit(picture, self.frame.height, self.frame.width, view, self.framing.interpolation)
        mean, std = self.recipe.encode_picture(to_tensor(cut))
        latents = torch.addcmul(mean, std, torch.randn(mean.shape, generator=generator))
        source = mask_source(self.item.path, content, self.item.mask) if self.has_mask else None
        mask = None if source is None else self._mask(source, picture.size, view, mean.shape[1])
        return Drawn(latents, size_conditioning(Size(*picture.size), self.frame, view).row(), mask)

    def _mask(self, source: MaskSource, size: tuple[int, int], view: View, cells: int) -> torch.Tensor:
        mask = open_mask(source, size)
        return latent_mask(mask, self.frame.height, self.frame.width, view, self.frame.height // cells)


def draw_view(generator: torch.Generator, *, center: bool, flip: bool) -> View:
    """Draw where a picture is cut, and whether it is mirrored."""
    left, top, mirrored = torch.rand(3, generator=generator).tolist()
    cut = View() if center else View(left, top)
    return cut._replace(flip=flip and mirrored < 0.5)
