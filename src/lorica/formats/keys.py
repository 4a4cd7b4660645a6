"""The keys of a file as one text, in which a format looks for its marks quickly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Keys:
    """What a format is recognised by: the keys of a file, and its metadata."""

    text: str
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, keys: Iterable[str], metadata: Mapping[str, str] | None = None) -> Keys:
        """Return the keys of a file, each on its own line."""
        return cls("\n" + "\n".join(keys) + "\n", metadata or {})

    def start(self, *starts: str) -> bool:
        """Tell whether any key starts with one of these."""
        return any(f"\n{start}" in self.text for start in starts)

    def all_start(self, *starts: str) -> bool:
        """Tell whether each key starts with one of these."""
        return sum(self.text.count(f"\n{start}") for start in starts) == self.text.count("\n") - 1

    def hold(self, *parts: str) -> bool:
        """Tell whether any key has one of these in it."""
        return any(part in self.text for part in parts)

    def end(self, *ends: str) -> bool:
        """Tell whether any key ends in one of these."""
        return any(f"{end}\n" in self.text for end in ends)
