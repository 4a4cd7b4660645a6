"""Length of a caption: in tokens of a base model where one is named, else in words and punctuation marks."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica.errors import FileError
from lorica.models import bundled
from lorica.printing import expanded

MOST_WORDS = 60  # of the 75 tokens that CLIP reads beside its two marks, about 1.25 go to a word
TOKENIZER = "tokenizer"


@dataclass(frozen=True, slots=True)
class CaptionMeasure:
    """Measure of the length of captions, with its limit.

    Args:
        unit: what is counted, for people.
        most: the limit of one caption.
        count: length of one caption.
        exact: whether the limit is the model's own.
    """

    unit: str
    most: int
    count: Callable[[str], int]
    exact: bool = True


def by_words() -> CaptionMeasure:
    """Measure that needs no model: words and marks, each at least one token in CLIP; an estimate."""
    return CaptionMeasure("words and marks", MOST_WORDS, count_words, exact=False)


def count_words(caption: str) -> int:
    """Number of words and marks; in scripts without spaces between words, each character counts."""
    return sum(max(1, sum(map(_is_word, part))) for part in re.findall(r"\w+|[^\w\s]", caption))


def by_tokens(name_or_path: str) -> CaptionMeasure:
    """Measure of a base model: its own tokens, the marks at start and end included.

    Only the tokenizer is loaded. ``name_or_path`` is ``bundled``, a folder in diffusers' format or a Hub id.

    Raises:
        FileError: if there is no tokenizer.
    """
    tokenizer = _load_tokenizer(name_or_path)

    def count(caption: str) -> int:
        return len(tokenizer(caption, truncation=False, verbose=False).input_ids)

    return CaptionMeasure(f"tokens of {name_or_path}", int(tokenizer.model_max_length), count)


def resolution_of(name_or_path: str) -> int | None:
    """Native resolution of a base model on disk, in pixels per side; None if its files do not say."""
    folder = _folder(name_or_path)
    try:
        side = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))["sample_size"]
        blocks = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))["block_out_channels"]
        return int(side) * 2 ** (len(blocks) - 1)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _folder(name_or_path: str) -> Path:
    return bundled.FOLDER if name_or_path == bundled.NAME else expanded(name_or_path)


def _load_tokenizer(name_or_path: str) -> Any:
    from transformers import AutoTokenizer

    folder = _folder(name_or_path)
    source = str(folder) if os.path.exists(folder) else name_or_path  # noqa: PTH110
    try:
        return AutoTokenizer.from_pretrained(source, subfolder=TOKENIZER)
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileError(
            f"{name_or_path} has no folder {TOKENIZER}/ that can be read ({said}). Name 'bundled', a folder in "
            "diffusers' format or a Hub id, or leave --pretrained_model_name_or_path out to count words."
        ) from error


def _is_word(character: str) -> bool:
    """Whether a character is a word of its own in its script, as in Chinese."""
    return unicodedata.category(character) == "Lo"
