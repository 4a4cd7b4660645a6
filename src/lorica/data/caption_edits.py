"""Caption augmentation: tags shuffled and dropped, wildcards, a trigger word, a prefix and a suffix.

The edits apply in this order, each in its place for a reason:

1. One of the picture's captions is drawn: everything after is about one text.
2. Wildcards ``{a|b}`` are drawn, before the text is split at separators: a comma inside braces separates no tags.
3. The whole caption is dropped, or not. A dropped caption is the empty text, and ends here: it trains the unconditional
   prediction that guidance compares with, so no trigger, prefix or suffix may be in it.
4. Single tags are dropped. Kept tags are counted in the caption as written, so this and the next step know them.
5. The remaining tags are shuffled; kept ones stay at their end of the caption.
6. The trigger word is added if it is missing, after the dropping, so that it is in every caption that is not empty.
7. Prefix and suffix are added last, outside of everything else.

All randomness comes from the generator that is passed in, made for one sample from the seed, the step and the purpose:
the same sample of the same step gets the same text on every run.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice, permutations, product
from typing import NamedTuple

import torch

from lorica.errors import ConfigError, DataError

Captions = str | Sequence[str]  # one, or several of which one is drawn

MOST_VARIANTS = 64
CLOSING_MARKS = frozenset(",.;:!?)]、。，．；：！？")  # noqa: RUF001  # no space before a suffix that begins with one


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionEdits:
    """Settings of the augmentation of captions. Without arguments captions stay as they are.

    Args:
        shuffle: shuffle the tags.
        separator: the text between tags.
        keep_tags: number of tags at the front that are neither dropped nor moved.
        keep_separator: a mark such as ``|||``. Tags before its first place and after its second are neither dropped nor
            moved, and the mark itself is removed. In a caption without it ``keep_tags`` counts.
        dropout: the share of captions that are empty.
        tag_dropout: the share of tags that are left out.
        trigger: a word for what is learnt; put at the front of a caption where it is in neither caption nor prefix nor
            suffix.
        prefix: put before every caption, with a space.
        suffix: put after every caption, with a space unless it begins with a mark such as a comma.
        wildcards: draw one of ``a`` and ``b`` where a caption says ``{a|b}``.

    Raises:
        ConfigError: for a share outside 0 to 1, a negative count, or separators that cannot be told apart.
    """

    shuffle: bool = False
    separator: str = ","
    keep_tags: int = 0
    keep_separator: str | None = None
    dropout: float = 0.0
    tag_dropout: float = 0.0
    trigger: str = ""
    prefix: str = ""
    suffix: str = ""
    wildcards: bool = False

    def __post_init__(self) -> None:
        for name, share in (("dropout", self.dropout), ("tag_dropout", self.tag_dropout)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} is the share of what is left out, from 0 to 1; got {share}.")
        if self.keep_tags < 0:
            raise ConfigError(f"keep_tags counts tags at the front, from 0 on; got {self.keep_tags}.")
        if not self.separator:
            raise ConfigError("separator is empty; give what stands between tags, such as a comma.")
        if self.keep_separator is not None and (not self.keep_separator or self.keep_separator in self.separator):
            raise ConfigError(
                f"keep_separator must be a mark that separator {self.separator!r} does not hold, such as '|||'; "
                f"got {self.keep_separator!r}."
            )

    @property
    def reads_tags(self) -> bool:
        """Whether captions are split into tags and joined again; otherwise their middle stays as written."""
        return self.shuffle or self.tag_dropout > 0 or self.keep_separator is not None


class _Tags(NamedTuple):
    """Tags of a caption: those that stay at the front, those that may move or go, those that stay at the end."""

    front: list[str]
    loose: list[str]
    back: list[str]


def edit(captions: Captions, edits: CaptionEdits, generator: torch.Generator, *, where: str = "a caption") -> str:
    """Text of one sample, drawn with ``generator``.

    Args:
        captions: the caption of the picture, or several of which one is drawn.
        edits: the changes.
        generator: made for this sample of this step.
        where: the picture, for the message.

    Raises:
        DataError: if there is no caption, or a wildcard is not closed.
    """
    choices = _choices(captions, where)
    parts = _alternatives(_one_of(choices, generator), edits, where)
    caption = "".join(_one_of(alternatives, generator) for alternatives in parts)
    if _chance(edits.dropout, generator):
        return ""
    if edits.reads_tags:
        tags = _cut(caption, edits)
        caption = _join(tags, _draw_order(len(tags.loose), edits, generator), edits)
    return _finish(caption, edits)


def variants(
    captions: Captions, edits: CaptionEdits, *, where: str = "a caption", limit: int = MOST_VARIANTS
) -> tuple[str, ...] | None:
    """Every text that :func:`edit` can give, or None if it has more than ``limit`` ways to make one.

    With a tuple, the texts can be encoded once and cached; with None, texts are encoded at their step.

    Raises:
        DataError: if there is no caption, or a wildcard is not closed, in any of the captions.
    """
    parsed = [_alternatives(caption, edits, where) for caption in dict.fromkeys(_choices(captions, where))]
    texts = list(islice(_every_text(parsed, edits), limit + 1))  # lazily: twenty shuffled tags have 20! orders
    return None if len(texts) > limit else tuple(dict.fromkeys(texts))


def _every_text(parsed: Sequence[Sequence[Sequence[str]]], edits: CaptionEdits) -> Iterator[str]:
    if edits.dropout > 0:
        yield ""
    if edits.dropout == 1:
        return
    for caption in map("".join, chain.from_iterable(product(*parts) for parts in parsed)):
        if not edits.reads_tags:
            yield _finish(caption, edits)
            continue
        tags = _cut(caption, edits)
        for order in _orders(len(tags.loose), edits):
            yield _finish(_join(tags, order, edits), edits)


def _choices(captions: Captions, where: str) -> Sequence[str]:
    choices = (captions,) if isinstance(captions, str) else captions
    if not choices:
        raise DataError(f"{where}: there is no caption to choose from; give one, or an empty text.")
    return choices


def _alternatives(caption: str, edits: CaptionEdits, where: str) -> list[list[str]]:
    """Parts of a caption, each with its possible texts: only one outside of braces."""
    if not edits.wildcards:
        return [[caption]]
    parts: list[list[str]] = []
    for index, part in enumerate(re.split(r"([{}])", caption)):
        inside, mark = index // 2 % 2 == 1, index % 2 == 1
        if mark and part != ("}" if inside else "{"):
            raise DataError(_about_braces(caption, where))
        if not mark:
            parts.append(part.split("|") if inside else [part])
    if len(parts) % 2 == 0:
        raise DataError(_about_braces(caption, where))
    return parts


def _about_braces(caption: str, where: str) -> str:
    return (
        f"{where}: every wildcard needs one {{ and one }}, and none may lie in another, as in "
        f"'a {{red|blue}} ball'; got {caption!r}. Close it, or turn wildcards off."
    )


def _cut(caption: str, edits: CaptionEdits) -> _Tags:
    if edits.keep_separator is not None and edits.keep_separator in caption:
        front, loose, *back = caption.split(edits.keep_separator, 2)
        rest = back[0].replace(edits.keep_separator, edits.separator) if back else ""
        return _Tags(_tags(front, edits), _tags(loose, edits), _tags(rest, edits))
    tags = _tags(caption, edits)
    return _Tags(tags[: edits.keep_tags], tags[edits.keep_tags :], [])


def _tags(text: str, edits: CaptionEdits) -> list[str]:
    tags = (tag.strip() for tag in text.split(edits.separator))
    return [tag for tag in tags if tag]


def _join(tags: _Tags, order: Sequence[int], edits: CaptionEdits) -> str:
    """Join the tags, the loose ones in the order of the indices in ``order``."""
    return _glue(edits).join([*tags.front, *(tags.loose[index] for index in order), *tags.back])


def _glue(edits: CaptionEdits) -> str:
    """Separator followed by a space, unless it ends in one or is as wide as a Chinese character."""
    last = edits.separator[-1]
    return edits.separator + ("" if last.isspace() or unicodedata.east_asian_width(last) in "WF" else " ")


def _draw_order(count: int, edits: CaptionEdits, generator: torch.Generator) -> list[int]:
    """Draw the remaining tags, of ``count``, and their order."""
    kept = (torch.rand(count, dtype=torch.float64, generator=generator) >= edits.tag_dropout).tolist()
    order = torch.randperm(count, generator=generator).tolist() if edits.shuffle else range(count)
    return [index for index in order if kept[index]]


def _orders(count: int, edits: CaptionEdits) -> Iterator[tuple[int, ...]]:
    """All possible results of :func:`_draw_order`."""
    least = count if edits.tag_dropout == 0 else 0
    most = 0 if edits.tag_dropout == 1 else count
    for size in range(least, most + 1):
        yield from permutations(range(count), size) if edits.shuffle else combinations(range(count), size)


def _finish(caption: str, edits: CaptionEdits) -> str:
    """Add the trigger word if it is missing, then prefix and suffix."""
    text, trigger, prefix, suffix = (part.strip() for part in (caption, edits.trigger, edits.prefix, edits.suffix))
    if trigger and not any(holds_word(part, trigger) for part in (text, prefix, suffix)):
        text = _glue(edits).join(part for part in (trigger, text) if part)
    text = " ".join(part for part in (prefix, text) if part)
    return text + suffix if suffix[:1] in CLOSING_MARKS else " ".join(part for part in (text, suffix) if part)


def holds_word(text: str, word: str) -> bool:
    """Whether a text holds a word, in upper or lower case: ``sks`` is not in ``asks``.

    Scripts without spaces between words, such as Chinese, have no word boundaries: there, any place counts.
    """
    word, text = unicodedata.normalize("NFC", word), unicodedata.normalize("NFC", text)
    left = r"(?<!\w)" if _ends_words(word[0]) else ""
    right = r"(?!\w)" if _ends_words(word[-1]) else ""
    return re.search(left + re.escape(word) + right, text, re.IGNORECASE) is not None


def _ends_words(character: str) -> bool:
    """Whether words of such characters end at a character of another kind."""
    return character.isalnum() and unicodedata.category(character) != "Lo"


def _one_of(choices: Sequence[str], generator: torch.Generator) -> str:
    return choices[int(torch.randint(len(choices), (), generator=generator))] if len(choices) > 1 else choices[0]


def _chance(share: float, generator: torch.Generator) -> bool:
    return share > 0 and float(torch.rand((), dtype=torch.float64, generator=generator)) < share
