"""How pictures are cut to size, for a whole run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How pictures are cut to size.

    Args:
        side: that of a square, where there are no buckets.
        crops: how many cuts of each picture are cached; 1 means the middle.
        flip: whether there is a mirrored one of each.
        interpolation: how pictures are resized.
        seed: where cuts lie depends on it.
        live: cut and encode pictures anew each time they are seen; then ``crops`` above 1 means anywhere.
    """

    side: int
    crops: int
    flip: bool
    interpolation: str
    seed: int
    live: bool = False
