"""One strength in every layer, which is what most strengths are: known without going through the layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Place = tuple[str, str]


class Everywhere(Mapping[Place, float]):
    """The same strength at each of some places.

    Args:
        places: component and module path of each, as the keys of a mapping.
        value: the strength.
    """

    def __init__(self, places: Mapping[Place, Any], value: float) -> None:
        self.places, self.value = places, value

    def __getitem__(self, place: Place) -> float:
        if place not in self.places:
            raise KeyError(place)
        return self.value

    def __iter__(self) -> Iterator[Place]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def acts(strengths: Mapping[Place, float]) -> bool:
    """Tell whether any strength is not 0."""
    if isinstance(strengths, Everywhere):
        return bool(strengths.value and strengths.places)
    return any(strengths.values())
