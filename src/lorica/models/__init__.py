"""What each base model looks like: components, blocks, default targets, spellings. Data, no weights."""

from __future__ import annotations

from lorica.models.target import Family, Target

FAMILIES: dict[str, Family] = {name: Family(name) for name in ("sd1", "sd2", "sdxl", "bundled")}

__all__ = ["FAMILIES", "Family", "Target"]
