"""A model as an adapter sees it: the paths and weight shapes of its modules, without weights.

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

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lorica.models.folding import Shape, unfold, unfold_names
from lorica.models.published import Published, read_published
from lorica.models.spellings import Spelling, spellings_of

FOLDER = Path(__file__).parent / "families"  # of the tables, made by ``python -m lorica.models.generate``


@dataclass(frozen=True)
class Target:
    """The modules that an adapter can change.

    Args:
        name: the model's name in messages.
        components: component (``unet``, ``text_encoder``, ...) to module path to the shape of the module's weight.
    """

    name: str
    components: Mapping[str, Mapping[str, Shape]]

    def modules(self) -> Iterator[tuple[str, str, Shape]]:
        """``(component, module path, weight shape)`` of every module."""
        for component, shapes in self.components.items():
            for path, shape in shapes.items():
                yield component, path, shape


@dataclass(frozen=True)
class Family:
    """A kind of base model: its published names and its table, read when they are first used.

    Each takes under a millisecond, and needs neither torch nor diffusers. Blocks that are alike stand once in the table
    (:mod:`lorica.models.folding`) and are written out when they are asked for.
    """

    name: str

    @cached_property
    def published(self) -> Published:
        """Names and configurations of the published model."""
        return read_published(self.name)

    @property
    def title(self) -> str:
        """Name for people, such as ``Stable Diffusion XL``."""
        return self.published.title

    @property
    def base_models(self) -> tuple[str, ...]:
        """The names that files give to their base model, lower case, without the organisation."""
        return self.published.base_models

    @cached_property
    def block_order(self) -> Mapping[str, tuple[str, ...]]:
        """Component to the paths of its blocks, from the input to the output."""
        return {name: unfold_names(blocks) for name, blocks in self._table["block_order"].items()}

    @cached_property
    def default_targets(self) -> Mapping[str, tuple[str, ...]]:
        """Component to globs of the module paths that training adapts by default."""
        return {name: tuple(globs) for name, globs in self._table["default_targets"].items()}

    @cached_property
    def target(self) -> Target:
        """The modules of the published model."""
        return Target(self.title, {name: unfold(modules) for name, modules in self._table["components"].items()})

    @cached_property
    def spellings(self) -> Mapping[str, Mapping[str, Spelling]]:
        """Component to the spellings that other programs have for its modules, by name; often none."""
        return {component: spellings_of(shapes) for component, shapes in self.target.components.items()}

    @cached_property
    def _table(self) -> dict[str, Any]:
        return json.loads((FOLDER / f"{self.name}.json").read_text("utf-8"))
