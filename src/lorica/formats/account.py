"""The account of a file while it is read: each key is used, or left with the reason, and what is left is refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from lorica.adapters.report import Report, UnusedKey
from lorica.errors import FormatError

SHOWN = 4  # unused keys that a message lists


@dataclass(slots=True)
class Account:
    """What has become of the keys of one file so far."""

    format: str
    source: str
    used: list[str] = field(default_factory=list[str])
    unused: dict[str, str] = field(default_factory=dict[str, str])

    def leave(self, keys: Iterable[str], reason: str) -> None:
        """Note that nothing came from these keys, and why."""
        for key in keys:
            self.unused[key] = reason

    def report(self, base_model: str | None) -> Report:
        """Return the finished account."""
        left = tuple(UnusedKey(key, reason) for key, reason in self.unused.items())
        return Report(self.format, self.source, base_model, tuple(self.used), left)


def unused_error(report: Report, known: Sequence[str], looks: str) -> FormatError:
    """Return the error for keys without use: the first of them, why, their nearest matches, and how to go on.

    Args:
        report: the account of the file.
        known: the names that the file could have used, to find the nearest ones.
        looks: a sentence on what the file looks like, or nothing.
    """
    shown = "\n  ".join(f"{left.key}: {left.reason}{_nearest(left.key, known)}" for left in report.unused[:SHOWN])
    more = f"\n  and {len(report.unused) - SHOWN} more" if len(report.unused) > SHOWN else ""
    total = len(report.unused) + len(report.used)
    return FormatError(
        f"{report.source}: {len(report.unused)} of its {total} keys cannot be used ({report.format} format), so "
        f"nothing was read.\n  {shown}{more}\n{looks}{' ' if looks else ''}"
        "With strict=False the rest of the file is read without them."
    )


def _nearest(key: str, known: Sequence[str]) -> str:
    near = get_close_matches(key, known, n=3, cutoff=0.5)
    return f" Nearest: {', '.join(near)}." if near else ""
