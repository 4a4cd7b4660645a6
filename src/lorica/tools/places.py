"""Where a module stands: its block, and what kind of part it is."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

REST = "other"  # the block of a module that stands in none
# The kind of a part by what its path contains: the first row that fits.
PARTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(^|\.)(attn2|cross_attn)\."), "cross-attention"),
    (re.compile(r"(^|\.)(ff|ff_context|ffn|feed_forward)(\.|$)|mlp|(^|\.)fc[12]$"), "feed-forward"),
    (re.compile(r"(^|\.)norm|_norm\d*(\.|$)|\.norm|modulation|adaln", re.IGNORECASE), "norm"),
    (re.compile(r"attn|attention|to_[qkv]|to_out|[qkv]_proj|out_proj|qkv"), "attention"),
    (re.compile(r"time|label|emb"), "embedding"),
    (re.compile(r"conv|resnets|samplers"), "convolution"),
)
_NUMBER = re.compile(r"\.\d+(?![^.])")
_NUMBERED = re.compile(r"(?P<block>(?:[A-Za-z_]+\.)*[A-Za-z_]*(?:blocks|layers|resblocks|stages)\.\d+)\.")


def part_of(path: str) -> str:
    """Return what kind of part a module is, such as ``cross-attention`` or ``convolution``."""
    return _part_of(_NUMBER.sub(".0", path))  # the same in each of the blocks


@lru_cache(maxsize=4096)
def _part_of(path: str) -> str:
    return next((title for pattern, title in PARTS if pattern.search(path)), "other")


def block_of(path: str, known: Collection[str]) -> str:
    """Return the block that a module stands in.

    Args:
        path: the module's path.
        known: the paths of the blocks, if the base model is known; without them the path itself tells.
    """
    if not known:
        numbered = _NUMBERED.match(path)
        return numbered["block"] if numbered else REST
    end = 0
    while end >= 0:
        end = path.find(".", end + 1)
        start = path[:end] if end > 0 else path
        if start in known:
            return start
    return REST


def in_order(blocks: Iterable[str], order: Sequence[str]) -> list[str]:
    """Return the blocks in the order of the model: where that is not known, by name, numbers as numbers."""
    places = {block: place for place, block in enumerate(order)}
    return sorted(set(blocks), key=lambda block: (places.get(block, len(order)), block == REST, _natural(block)))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]
