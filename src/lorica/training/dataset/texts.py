"""Captions as they are drawn at a step, encoded before the run where there are few enough of them."""

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
from lorica.errors import DataError
from lorica.training.progress import Reporter
from lorica.training.recipes.recipe import Conditioning, Recipe

MOST_TEXTS = 2048  # held encoded in memory: half a gigabyte for Stable Diffusion 1.x


@dataclass(frozen=True, slots=True)
class Texts:
    """The captions of a run.

    Args:
        groups: the data sets, each of which edits its captions in its own way.
        encoded: the conditioning of texts by text.
        recipe: encodes the others when they are drawn.
        is_open: whether there are others, so that the text encoder is needed at every step.
    """

    groups: Sequence[Group]
    encoded: Mapping[str, Conditioning]
    recipe: Recipe
    is_open: bool

    def draw(self, item: Item, generator: torch.Generator) -> str:
        """Draw the text that one sample sees."""
        return edit(item.captions, self.groups[item.group].edits, generator, where=item.path.name)

    def conditioning(self, item: Item, generator: torch.Generator) -> Conditioning:
        """Draw the text of one sample; its conditioning, without the batch dimension."""
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
    encoded = {text: encode_text(text, recipe, model_key, cache) for text in dict.fromkeys(chain.from_iterable(known))}
    return Texts(groups, encoded, recipe, is_open=len(known) < len(possible))


def encode_text(text: str, recipe: Recipe, model_key: str, cache: Cache) -> Conditioning:
    """Encode one text, or take it from the cache."""
    return cache.get(key_of("text", model_key, text), partial(recipe.encode_text, text))


def whole_texts(item: Item, edits: CaptionEdits) -> tuple[str, ...]:
    """Texts of a picture with nothing dropped or shuffled; its captions as written if they are too many."""
    whole = replace(edits, dropout=0.0, tag_dropout=0.0, shuffle=False)
    return variants(item.captions, whole, where=item.path.name) or item.captions


def check_captions(
    items: Sequence[Item], groups: Sequence[Group], recipe: Recipe, reporter: Reporter, *, strict: bool
) -> None:
    """Report captions with more tokens than the model reads.

    Raises:
        DataError: for such captions, if ``strict``.
    """
    counts = [(item, max(map(recipe.count_tokens, whole_texts(item, groups[item.group].edits)))) for item in items]
    long = [(item, count) for item, count in counts if count[0] > count[1]]
    if not long:
        return
    limit = long[0][1][1]
    which = ", ".join(f"{item.path.name} ({count} tokens)" for item, (count, _) in long[:3])
    text = f"{len(long)} of {len(items)} captions are longer than the {limit} tokens that the model reads: {which}"
    if strict:
        raise DataError(f"{text}. Shorten them, or allow cutting with --on_long_caption cut.")
    reporter.say(f"{text}; the rest of each is cut off.")
