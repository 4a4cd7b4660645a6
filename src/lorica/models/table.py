"""The tables of the families: one JSON file each, made by ``python -m lorica.models.generate``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "families"


@dataclass(frozen=True, slots=True)
class Table:
    """What the file of one family holds; :class:`lorica.models.Family` says what each field means."""

    title: str
    base_models: tuple[str, ...]
    block_order: Mapping[str, tuple[str, ...]]
    default_targets: Mapping[str, tuple[str, ...]]
    components: Mapping[str, Mapping[str, tuple[int, ...]]]


def read_table(name: str) -> Table:
    """Return the table of a family. Takes a few milliseconds, and neither torch models nor diffusers."""
    raw: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return Table(
        title=raw["title"],
        base_models=tuple(raw["base_models"]),
        block_order=_tuples(raw["block_order"]),
        default_targets=_tuples(raw["default_targets"]),
        components={name: _tuples(modules) for name, modules in raw["components"].items()},
    )


def _tuples(lists: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(values) for name, values in lists.items()}
