"""Blocks of a network and kinds of its modules, and how much an adapter changes in each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from math import hypot
from typing import Any

from lorica.adapters import Adapter
from lorica.models import FAMILIES
from lorica.tools.facts import Block, Component

Norms = Mapping[tuple[str, str], float | None]  # component and module path to the norm of the change

REST = "other"  # the block of a module that is in none
# The kind of a module by its path: the first row that matches.
KINDS_OF_MODULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(^|\.)(attn2|cross_attn)\."), "cross-attention"),
    (re.compile(r"(^|\.)(ff|ff_context|ffn|feed_forward)(\.|$)|mlp|(^|\.)fc[12]$"), "feed-forward"),
    (re.compile(r"(^|\.)norm|_norm\d*(\.|$)|\.norm|modulation|adaln", re.IGNORECASE), "norm"),
    (re.compile(r"attn|attention|to_[qkv]|to_out|[qkv]_proj|out_proj|qkv"), "attention"),
    (re.compile(r"time|label|emb"), "embedding"),
    (re.compile(r"conv|resnets|samplers"), "convolution"),
)
_NUMBER = re.compile(r"\.\d+(?![^.])")
_NUMBERED = re.compile(r"(?P<block>(?:[A-Za-z_]+\.)*[A-Za-z_]*(?:blocks|layers|resblocks|stages)\.\d+)\.")


def components_of(adapter: Adapter, family: str | None, norms: Norms) -> Iterator[Component]:
    """Changes in each component, the networks that draw before those that read.

    Args:
        adapter: the adapter.
        family: its base model, if that is known.
        norms: the norms that were measured; may be empty.
    """
    for name, layers in sorted(adapter.components.items(), key=_reading_order):
        order = FAMILIES[family].block_order.get(name, ()) if family else ()
        known = frozenset(order)
        members: dict[str, list[float | None]] = {}
        for path in layers:
            members.setdefault(block_of(path, known), []).append(norms.get((name, path)))
        measured = [norms[name, path] for path in layers if (name, path) in norms]
        yield Component(
            name=name,
            modules=len(layers),
            parts=dict(Counter(kind_of(path) for path in layers).most_common()),
            blocks=tuple(
                Block(block, len(members[block]), _total(members[block])) for block in in_order(members, order)
            ),
            norm=_total(measured),
            unmeasured=sum(norm is None for norm in measured),
        )


def kind_of(path: str) -> str:
    """Kind of a module, such as ``cross-attention`` or ``convolution``."""
    return _kind_of(_NUMBER.sub(".0", path))  # the same in all blocks, so a few results serve thousands of paths


@lru_cache(maxsize=4096)
def _kind_of(path: str) -> str:
    return next((title for pattern, title in KINDS_OF_MODULES if pattern.search(path)), "other")


def block_of(path: str, known: Collection[str]) -> str:
    """Block of a module.

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
    """Blocks in the order of the model; where that is not known, by name, numbers as numbers."""
    places = {block: place for place, block in enumerate(order)}
    return sorted(set(blocks), key=lambda block: (places.get(block, len(order)), block == REST, _natural(block)))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def _reading_order(part: tuple[str, Any]) -> tuple[bool, str]:
    return part[0].startswith("text_encoder"), part[0]


def _total(norms: Iterable[float | None]) -> float | None:
    """Norm of all changes together, from the norm of each; None if none was measured."""
    measured = [norm for norm in norms if norm is not None]
    return hypot(*measured) if measured else None
