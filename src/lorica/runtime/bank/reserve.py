"""Room reserved before a model is compiled: what fits in is loaded by copying rows, and nothing is compiled again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from lorica.errors import StateError, UnknownNameError
from lorica.runtime.bank.build import ReservedEdit
from lorica.runtime.bank.content import Content
from lorica.runtime.model.layers import Place
from lorica.runtime.model.targets import matching, modules_of

SHOWN = 5  # modules that a message names


def places_to_reserve(components: Mapping[str, nn.Module], modules: str | Sequence[str]) -> list[Place]:
    """The layers of all components that a preset or globs name; each must match in one component at least.

    Raises:
        UnknownNameError: if one matches nowhere.
    """
    patterns = [modules] if isinstance(modules, str) else list(modules)
    known = {f"{name}.{path}": (name, path) for name, part in components.items() for path in modules_of(part)}
    chosen: set[Place] = set()
    for pattern in patterns:
        found = [(name, path) for name, part in components.items() for path in matching(modules_of(part), pattern)]
        if not found:
            raise UnknownNameError.among_many("module pattern", pattern, list(known))
        chosen.update(found)
    return [place for place in known.values() if place in chosen]


@dataclass(slots=True)
class Overflow:
    """What has no room in what was reserved, collected layer by layer.

    Args:
        names: the adapters that come.
    """

    names: Sequence[str]
    needed: int = 0  # the largest number of rows
    narrow: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])  # got and needed
    missing: list[str] = field(default_factory=list[str])
    whole: list[str] = field(default_factory=list[str])

    def note(self, place: Place, room: int, planned: Content | ReservedEdit) -> None:
        """Note what of a layer's content has no room."""
        content = planned.content if isinstance(planned, ReservedEdit) else planned
        where, rows = ".".join(place), max((rows.stop for rows in content.rows.values()), default=0)
        if content.directs:
            self.whole.append(where)
        elif not room:
            self.missing.append(where)
        elif rows > room:
            self.narrow[where] = (room, rows)
        else:
            return
        self.needed = max(self.needed, rows)

    @property
    def is_some(self) -> bool:
        """Whether anything had no room so far."""
        return bool(self.narrow or self.missing or self.whole)

    def check(self) -> None:
        """Raise if anything had no room.

        Raises:
            StateError: saying by how much.
        """
        told = [*self._tell_narrow(), *self._tell_missing(), *self._tell_whole()]
        if told:
            raise StateError(
                f"{', '.join(map(repr, self.names))} exceeds what reserve() set aside; the model is unchanged. "
                + " ".join(told)
            )

    def _tell_narrow(self) -> list[str]:
        if not self.narrow:
            return []
        where, (got, needed) = max(self.narrow.items(), key=lambda item: item[1][1] - item[1][0])
        return [
            f"{len(self.narrow)} modules need more rows than there are, at most {needed} where {got} are reserved "
            f"(in {where}): remove an adapter, or reserve(rank={self.needed}) and compile again."
        ]

    def _tell_missing(self) -> list[str]:
        if not self.missing:
            return []
        return [
            f"{len(self.missing)} modules were not reserved at all: {_shortened(self.missing)}. Name them in "
            f"reserve(rank={self.needed}, modules=...) and compile again."
        ]

    def _tell_whole(self) -> list[str]:
        if not self.whole:
            return []
        return [
            f"{len(self.whole)} modules are changed in a way that has no thin factors (a whole weight, a norm or a "
            f"bias): {_shortened(self.whole)}. Fuse the adapter instead: load(..., strength=0.0), then fuse(); what is "
            "inside the weights needs no room."
        ]


def _shortened(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
