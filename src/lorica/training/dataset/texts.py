"""What the model is told of a sample: a caption as it is drawn at a step, encoded before the run where that can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import torch

from lorica.data.cache import Cache, key_of
from lorica.data.caption_edits import CaptionEdits, edit, variants
from lorica.data.groups import Group
from lorica.data.items import Item
from lorica.training.recipes.recipe import Conditioning, Recipe

MOST_TEXTS = 2048  # that are held encoded in memory: half a gigabyte for Stable Diffusion 1.x


@dataclass(frozen=True, slots=True)
class Texts:
    """The captions of a run.

    Args:
        groups: the data sets, whose captions are changed in ways of their own.
        encoded: the conditioning of texts by text.
        recipe: encodes the others when they are drawn.
        is_open: whether there are others, so that the text encoder is needed at every step.
    """

    groups: Sequence[Group]
    encoded: Mapping[str, Conditioning]
    recipe: Recipe
    is_open: bool

    def draw(self, item: Item, generator: torch.Generator) -> str:
        """Return the text that one sample sees."""
        return edit(item.captions, self.groups[item.group].edits, generator, where=item.path.name)

    def conditioning(self, item: Item, generator: torch.Generator) -> Conditioning:
        """Return what the model is told of one sample, without the dimension of the batch."""
        text = self.draw(item, generator)
        return self.encoded[text] if text in self.encoded else self.recipe.encode_text(text)


def encode_texts(items: Sequence[Item], groups: Sequence[Group], recipe: Recipe, model_key: str, cache: Cache) -> Texts:
    """Encode every text that the captions can become, or take it from the cache.

    A picture whose captions can become too many has them encoded when they are drawn, and where all pictures together
    have more than ``MOST_TEXTS``, so has every picture whose caption is not fixed.

    Raises:
        DataError: if a wildcard is not closed.
    """
    possible = {
        (item.captions, item.group): variants(item.captions, groups[item.group].edits, where=item.path.name)
        for item in {(item.captions, item.group): item for item in items}.values()
    }
    known = [texts for texts in possible.values() if texts is not None]
    if len(set(chain.from_iterable(known))) > MOST_TEXTS:
        known = [texts for texts in known if len(texts) == 1]
    encoded = {
        text: cache.get(key_of("text", model_key, text), partial(recipe.encode_text, text))
        for text in dict.fromkeys(chain.from_iterable(known))
    }
    return Texts(groups, encoded, recipe, is_open=len(known) < len(possible))


def whole_texts(item: Item, edits: CaptionEdits) -> tuple[str, ...]:
    """Return the texts of a picture with nothing dropped or shuffled; its captions as written if they are too many."""
    whole = replace(edits, dropout=0.0, tag_dropout=0.0, shuffle=False)
    return variants(item.captions, whole, where=item.path.name) or item.captions
