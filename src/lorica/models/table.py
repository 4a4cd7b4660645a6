"""The tables of the families: one JSON file each, made by ``python -m lorica.models.generate``.

Blocks that are alike stand once in the files (:mod:`lorica.models.folding`) and are written out when they are asked
for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lorica.models.folding import Folded, Shape, unfold, unfold_names

FOLDER = Path(__file__).parent / "families"


@dataclass(frozen=True)
class Table:
    """What the file of one family holds; :class:`lorica.models.Family` says what each field means."""

    title: str
    base_models: tuple[str, ...]
    default_targets: Mapping[str, tuple[str, ...]]
    folded_order: Mapping[str, list[str]]
    folded: Mapping[str, Folded]

    @cached_property
    def block_order(self) -> Mapping[str, tuple[str, ...]]:
        """Component to the paths of its blocks."""
        return {name: unfold_names(blocks) for name, blocks in self.folded_order.items()}

    @cached_property
    def components(self) -> Mapping[str, Mapping[str, Shape]]:
        """Component to module path to the shape of the module's weight."""
        return {name: unfold(modules) for name, modules in self.folded.items()}


def read_table(name: str) -> Table:
    """Return the table of a family. Takes under a millisecond, and neither torch models nor diffusers."""
    raw: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return Table(
        title=raw["title"],
        base_models=tuple(raw["base_models"]),
        default_targets={name: tuple(globs) for name, globs in raw["default_targets"].items()},
        folded_order=raw["block_order"],
        folded=raw["components"],
    )
