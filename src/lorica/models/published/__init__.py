"""Published base models: one JSON file per family with its names and the configurations of its networks.

The configurations hold what differs from the defaults of the diffusers or transformers class; ``source`` says where the
numbers come from. Text encoders that several families share are in ``text_encoders.json`` and are referred to by name;
those that nobody trains adapters for (Gemma, Qwen, Llama, UMT5) are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Network:
    """One component: a class of diffusers or transformers by name, and the settings that differ from its defaults."""

    kind: str
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Published:
    """One family as its authors published it.

    Args:
        title: its name for people.
        repository: the repository on the Hub, for commands that can be copied; or ``bundled``.
        base_models: the names that files give to their base model, lower case, without the organisation.
        networks: component to network.
    """

    title: str
    repository: str
    base_models: tuple[str, ...]
    networks: Mapping[str, Network]


def read_published(name: str) -> Published:
    """The published model of a family."""
    raw, shared = _read(name), _read("text_encoders")
    parts = {component: shared[part] if isinstance(part, str) else part for component, part in raw["networks"].items()}
    networks = {component: Network(part["class"], part.get("config", {})) for component, part in parts.items()}
    return Published(raw["title"], raw["repository"], tuple(raw["base_models"]), networks)


@lru_cache
def _read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
