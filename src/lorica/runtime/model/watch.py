"""Watch over the layers that carry adapters: whether they still are what the model calls."""

from __future__ import annotations

from collections.abc import Collection

from lorica.runtime.model.layers import HeldLayers, Place, Watched
from lorica.runtime.model.projections import Projections


class Watch:
    """Watch over layers and projections, which looks closely only where an entry of a module's tables has changed.

    Args:
        layers: those that carry adapters.
        projections: the attentions that they are a part of.
    """

    def __init__(self, layers: HeldLayers, projections: Projections) -> None:
        self._layers, self._projections = layers, projections
        self._entries: list[Watched] | None = None

    def hold(self, places: Collection[Place]) -> None:
        """Watch the layers at these places, and no others, from now on."""
        self._entries = None
        self._layers.hold(places)
        self._projections.hold(places)

    def check(self) -> None:
        """Raise if the model no longer has the layers, or does not call them.

        Raises:
            StateError: naming one.
        """
        if self._entries is None:
            self._look()
            return
        for table, name, value in self._entries:
            if table.get(name) is not value:
                self._look()
                return

    def _look(self) -> None:
        self._entries = None
        self._projections.check()
        self._entries = [*self._layers.check(), *self._projections.watched()]
