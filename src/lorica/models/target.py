"""What a model looks like to an adapter: the paths and weight shapes of its modules, without weights.

**Other programs' names for the modules** (``lorica.models.spellings``) are made from a component's own paths and
looked up, never parsed. They work on the tables of ``FAMILIES`` and on live models of any depth and width alike::

    shapes = target.components["transformer"]
    for foreign, parts in foreign_names(shapes).items():        # every spelling that the component has, in one table
        for part in parts:                                      # one part, or several for a fused projection
            own[part.path][part.own_rows] = foreign_weight[part.rows]       # None means all rows

    spellings_of(shapes)["bfl"].table(shapes)                   # one spelling, to write a file in it
    {"double_blocks.0.img_attn.qkv": (Part("transformer_blocks.0.attn.to_q", rows=(0, 3072)),
                                      Part("transformer_blocks.0.attn.to_k", rows=(3072, 6144)),
                                      Part("transformer_blocks.0.attn.to_v", rows=(6144, 9216))),
     "double_blocks.0.img_attn.proj": (Part("transformer_blocks.0.attn.to_out.0"),),
     "final_layer.adaLN_modulation.1": (Part("norm_out.linear", rows=(0, 3072), own_rows=(3072, 6144)),
                                        Part("norm_out.linear", rows=(3072, 6144), own_rows=(0, 3072)))}

``Family.spellings`` names them by component: ``FAMILIES["flux_dev"].spellings["transformer"]["bfl"]``. The names
carry no prefix and no leaf: ``diffusion_model.``, flat names and ``.scale`` for ``.weight`` are the formats' business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from lorica.models.spellings import Spelling, spellings_of
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

    @cached_property
    def spellings(self) -> Mapping[str, Mapping[str, Spelling]]:
        """Component to the spellings that other programs have for its modules, by name; often none."""
        return {component: spellings_of(shapes) for component, shapes in self.target.components.items()}

    @property
    def _table(self) -> Table:
        return _cached_table(self.name)


@lru_cache
def _cached_table(name: str) -> Table:
    return read_table(name)
