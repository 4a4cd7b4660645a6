"""What became of every key of a file that was read."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class UnusedKey:
    """A key that no part of the adapter came from, and why."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """The account of one file: each of its keys is in ``used`` or in ``unused``.

    ``evidence`` is what the names and sizes in the file say of its base model, if they were looked at.
    ``spelling`` is for ``lorica.formats`` alone: what it needs to write the file back as it was spelled.
    """

    format: str
    source: str
    base_model: str | None = None
    used: tuple[str, ...] = ()
    unused: tuple[UnusedKey, ...] = ()
    evidence: tuple[str, ...] = ()
    spelling: object = field(default=None, repr=False, compare=False)
