"""Which adapters act: told once for all banks of a model, so a switch costs the same however many layers it has."""

from __future__ import annotations

from dataclasses import dataclass

Names = tuple[frozenset[str], ...]


@dataclass(slots=True)
class Acting:
    """What all parts of a model's banks look at. A part that was copied with its layer looks at a copy.

    Args:
        names: for each sample, the adapters whose strength is not 0 everywhere.
        guidance: how often the list of samples stands in a batch, if that is known.
        moved: whether a part took its strengths to another device since they were set.
    """

    names: Names = (frozenset(),)
    guidance: int | None = None
    moved: bool = False
