"""Description of a published model: the classes of its networks, and their configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Network:
    """One component: a class of diffusers or transformers by name, and the settings that differ from its defaults."""

    kind: str
    config: Config = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Published:
    """One family as its authors published it.

    Args:
        title: its name for people.
        base_models: the names that files give to their base model, lower case, without the organisation.
        networks: component to network.
    """

    title: str
    base_models: tuple[str, ...]
    networks: Mapping[str, Network]
