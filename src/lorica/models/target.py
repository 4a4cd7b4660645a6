"""What a model looks like to an adapter: the paths and weight shapes of its modules, without weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from lorica.models.table import Table, read_table

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """The modules that an adapter can change.

    Args:
        name: what to call the model in messages.
        components: component (``unet``, ``text_encoder``, ...) to module path to the shape of the module's weight.
    """

    name: str
    components: Mapping[str, Mapping[str, Shape]]

    def modules(self) -> Iterator[tuple[str, str, Shape]]:
        """Yield ``(component, module path, weight shape)`` for every module."""
        for component, shapes in self.components.items():
            for path, shape in shapes.items():
                yield component, path, shape


@dataclass(frozen=True)
class Family:
    """A kind of base model: what the table of its name says, read when it is first asked for."""

    name: str

    @property
    def title(self) -> str:
        """What people call it, such as ``Stable Diffusion XL``."""
        return self._table.title

    @property
    def base_models(self) -> tuple[str, ...]:
        """The values that files give as their base model, lower case, without the organisation."""
        return self._table.base_models

    @property
    def block_order(self) -> Mapping[str, tuple[str, ...]]:
        """Component to the paths of its blocks, from the input to the output."""
        return self._table.block_order

    @property
    def default_targets(self) -> Mapping[str, tuple[str, ...]]:
        """Component to globs of the module paths that training adapts if nothing else is asked for."""
        return self._table.default_targets

    @cached_property
    def target(self) -> Target:
        """The modules of the published model."""
        return Target(self.title, self._table.components)

    @property
    def _table(self) -> Table:
        return _cached_table(self.name)


@lru_cache
def _cached_table(name: str) -> Table:
    return read_table(name)
