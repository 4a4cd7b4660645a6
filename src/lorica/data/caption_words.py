"""Words that nearly every caption shares: they learn together with the trigger word, which is then weak without."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lorica.data.caption_edits import holds_word

SHARE = 0.8  # of the captions: then a word says of each picture what the trigger word says
LEAST = 5  # captions; fewer share words by chance
MOST_NAMED = 8
# Words of every sentence, and of what kind of picture it is: nobody takes them for the subject.
COMMON_TEXT = (
    "a an and are as at by for from has have her his in into is it its no of on or over that the their there this "
    "to under up was while with photo photograph picture image painting drawing illustration style background solo"
)
COMMON = frozenset(COMMON_TEXT.split())


def shared_words(captions: Iterable[str], trigger: str) -> list[tuple[str, int]]:
    """Words that most captions hold beside the trigger word, each with the number of captions, the most first."""
    counts, total = Counter[str](), 0
    own = {word.casefold() for word in re.findall(r"\w+", trigger)}
    for caption in captions:
        words = {word.casefold() for word in re.findall(r"\w+", caption)}
        counts.update(word for word in words - own - COMMON if len(word) > 1)
        total += 1
    if total < LEAST:
        return []
    shared = [(word, count) for word, count in counts.items() if count >= SHARE * total]
    return sorted(shared, key=lambda pair: (-pair[1], pair[0]))[:MOST_NAMED]


def repeated_trigger(captions: Mapping[Path, tuple[str, ...]], trigger: str) -> Iterator[tuple[Path, int]]:
    """Pictures with a caption that says the trigger word more than once, and how often."""
    for path, several in captions.items():
        most = max(_times(caption, trigger) for caption in several)
        if most > 1:
            yield path, most


def _times(caption: str, trigger: str) -> int:
    if not holds_word(caption, trigger):
        return 0
    return len(re.findall(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption, re.IGNORECASE))
