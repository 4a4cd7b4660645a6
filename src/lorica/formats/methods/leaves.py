"""What follows a module's name in a key, in the spellings of all methods, and what it means.

A meaning is ``group.leaf`` where a method has the leaf, or one of those that all methods share: ``bias``, ``alpha``,
``scale`` (A1111's alpha / rank), and ``reshape`` (ComfyUI's shape of the weight, which is padded with zeros up to it: a
first layer with more inputs).
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lorica.formats.methods import METHODS
from lorica.formats.methods.method import BIAS, Method

TOLD = ("alpha", "scale", "reshape")  # leaves that say something of a layer and are no part of it
SHARED: dict[str, str] = {
    "alpha": "alpha", "lora_alpha": "alpha", "scale": "scale", "reshape_weight": "reshape",
    "diff_b": BIAS, "lora_up.bias": BIAS,
}  # fmt: skip
_SHARED_OF_LYCORIS = {BIAS: "diff_b", "alpha": "alpha"}
# What a leaf that is not known here is of, for a better message than "unknown".
FOREIGN: dict[str, str] = {
    "dyn_dim": "a rank that changes while it is used (A1111)",
    "hra_u": "Householder reflections (HRA of PEFT)",
    "boft_R": "BOFT of PEFT, which turns inputs where LyCORIS' turns outputs",
    "boft_s": "BOFT of PEFT",
}
_UNKNOWN = "?"  # before a leaf that has no meaning, so that it cannot be taken for one


@dataclass(frozen=True, slots=True)
class LeafTables:
    """The leaves of all methods.

    Args:
        dotted: spelling to meaning, as it is read behind any name. No spelling is the end of another behind a dot, so
            the order in which they are tried is free.
        beside: spellings that say too little alone, to their meaning and the spelling that must stand beside them.
        lycoris: meaning to spelling, as Kohya's scripts and LyCORIS write it; other formats differ in some.
        peft: the same as PEFT writes it.
        flags: meanings of settings, which are one number of any dtype.
        indices: meanings of whole numbers.
    """

    dotted: dict[str, str]
    beside: dict[str, tuple[str, str]]
    lycoris: dict[str, str]
    peft: dict[str, str]
    flags: frozenset[str]
    indices: frozenset[str]
    _longest: int
    _live: re.Pattern[str]
    _marks: re.Pattern[str]

    @property
    def flat(self) -> dict[str, str]:
        """Spelling to meaning behind a flat name, which ends at the first dot: every leaf stands there alone."""
        return {**self.dotted, **{spelling: meaning for spelling, (meaning, _) in self.beside.items()}}

    def split(self, key: str, keys: Container[str] = ()) -> tuple[str, str] | None:
        """The module's name and the meaning of a dotted key; None if it ends in no leaf known.

        A longer leaf is preferred: ``lora_B.bias`` to a plain ``bias``.

        Args:
            key: the key.
            keys: all keys of the file.
        """
        found = self._split_end(key)
        if found is None and (live := self._live.fullmatch(key)):
            return self._split_end(live["leaf"] + (live["end"] or ""))
        name, _, leaf = key.rpartition(".")
        if found is None and leaf in self.beside:
            meaning, other = self.beside[leaf]
            return (name, meaning) if f"{name}.{other}" in keys else None
        return found

    def mark(self, keys: Iterable[str]) -> bool:
        """Whether any of some keys, with ``#`` for every digit, ends in a leaf of a method."""
        return self._marks.search("\n".join((*keys, ""))) is not None

    def _split_end(self, key: str) -> tuple[str, str] | None:
        cut = len(key)
        for _ in range(self._longest):
            cut = key.rfind(".", 0, cut)
            if cut < 0:
                return None
            meaning = self.dotted.get(key[cut + 1 :])
            if meaning is not None:
                return key[:cut], meaning
        return None


def leaf_tables() -> LeafTables:
    """The tables of the methods that are registered now."""
    return _tables(tuple(METHODS.values()))


@lru_cache(maxsize=8)
def _tables(methods: tuple[Method[Any], ...]) -> LeafTables:
    leaves = [(method.meaning(leaf.name), leaf) for method in methods for leaf in method.leaves]
    own = {spelling: meaning for meaning, leaf in leaves if not leaf.beside for spelling in leaf.spellings}
    beside = {
        spelling: (meaning, leaf.beside) for meaning, leaf in leaves if leaf.beside for spelling in leaf.spellings
    }
    # In a live model of PEFT the adapter's name stands behind a leaf: ``lora_A.default.weight``.
    live = {leaf.peft.removesuffix(".weight").removesuffix(".bias") for _, leaf in leaves if leaf.peft}
    endings = (*own, *(leaf for leaf, meaning in SHARED.items() if meaning == BIAS))
    marks, live_marks = (dict.fromkeys(re.sub(r"\d", "#", leaf) for leaf in group) for group in (endings, live))
    return LeafTables(
        dotted={**own, **SHARED},
        beside=beside,
        lycoris={meaning: leaf.lycoris for meaning, leaf in leaves if leaf.lycoris} | _SHARED_OF_LYCORIS,
        peft={meaning: leaf.peft for meaning, leaf in leaves if leaf.peft},
        flags=frozenset(meaning for meaning, leaf in leaves if leaf.is_flag),
        indices=frozenset(meaning for meaning, leaf in leaves if leaf.is_index),
        _longest=max(leaf.count(".") for leaf in (*own, *SHARED)) + 1,
        _live=re.compile(rf"(?P<leaf>.+\.({_any_of(live)}))\.[^.]+(?P<end>\.weight|\.bias)?"),
        _marks=re.compile(rf"\.({_any_of(marks)}|({_any_of(live_marks)})\.[^.\n]+(\.weight|\.bias)?)\n"),
    )


def _any_of(spellings: Iterable[str]) -> str:
    return "|".join(map(re.escape, spellings))


def unknown(leaf: str) -> str:
    """A stand-in for the meaning of a leaf that has none."""
    return _UNKNOWN + leaf


def as_written(meaning: str) -> str:
    """A meaning, or the leaf for which :func:`unknown` made it."""
    return meaning.removeprefix(_UNKNOWN)
