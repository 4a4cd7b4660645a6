"""The account of a file while it is read: each key is used, or left with the reason, and what is left is refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from heapq import nlargest
from itertools import takewhile
from operator import eq

from lorica.adapters.report import Report, UnusedKey
from lorica.errors import FormatError
from lorica.formats.spelling import Spelling
from lorica.models.detect import Candidate

SHOWN = 4  # unused keys that a message lists
_CANDIDATES = 12  # names that are compared closely


@dataclass(slots=True)
class Account:
    """What has become of the keys of one file so far."""

    format: str
    source: str
    used: list[str] = field(default_factory=list[str])
    unused: dict[str, str] = field(default_factory=dict[str, str])
    strangers: dict[str, str] = field(default_factory=dict[str, str])  # unused keys to the modules they name
    spelling: Spelling = field(default_factory=Spelling)
    candidates: Sequence[Candidate] = ()  # the families that the file may be for, if that was looked at

    def leave(self, keys: Iterable[str], reason: str) -> None:
        """Note that nothing came from these keys, and why."""
        for key in keys:
            self.unused[key] = reason

    def leave_stranger(self, keys: Iterable[str], module: str, reason: str) -> None:
        """Note that nothing came from these keys because there is no such module."""
        for key in keys:
            self.unused[key] = reason
            self.strangers[key] = module

    def report(self, base_model: str | None) -> Report:
        """Return the finished account."""
        evidence = self.candidates[0].evidence if self.candidates else ()
        used = dict.fromkeys(self.used)  # a tensor that several modules share is one key
        left = tuple(UnusedKey(key, reason) for key, reason in self.unused.items() if key not in used)
        return Report(self.format, self.source, base_model, tuple(used), left, evidence, self.spelling)

    def error(self, known: Sequence[str], looks: str) -> FormatError:
        """Return the error for the unused keys: the first of them, why, their nearest matches, and how to go on.

        Args:
            known: the modules that the file could have named.
            looks: a sentence on what the file looks like, or nothing.
        """
        sample = self._sample()
        shown = [f"{key}: {self.unused[key]}{self._nearest(key, known)}" for key in sample]
        if len(self.unused) > len(sample):
            shown.append(f"and {len(self.unused) - len(sample)} more")
        lines = "\n  ".join(shown)
        total = len(self.unused) + len(self.used)
        return FormatError(
            f"{self.source}: {len(self.unused)} of its {total} keys cannot be used ({self.format} format), so nothing "
            f"was read.\n  {lines}\n{looks}{' ' if looks else ''}"
            "With strict=False the rest of the file is read without them."
        )

    def _sample(self) -> list[str]:
        """Return the first keys that each tell something new: another module, or another reason."""
        told = {(reason, self.strangers.get(key)): key for key, reason in reversed(self.unused.items())}
        return list(reversed(told.values()))[:SHOWN]

    def _nearest(self, key: str, known: Sequence[str]) -> str:
        if key not in self.strangers:
            return ""
        near = nearest(self.strangers[key], known)
        return f" Nearest: {', '.join(near)}." if near else ""


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """Return the up to three known names that are most like a name.

    Comparing a long name closely takes long, so only those that share the most of their beginning and end are.
    """

    def shared(other: str) -> int:
        return _shared_start(name, other) + _shared_start(name[::-1], other[::-1])

    return get_close_matches(name, nlargest(_CANDIDATES, known, key=shared), n=3, cutoff=0.5)


def _shared_start(a: str, b: str) -> int:
    return sum(takewhile(bool, map(eq, a, b)))
