"""How a published model is described: its class, and what its ``config.json`` says."""

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
        title: what people call it.
        base_models: what files give as their base model, lower case, without the organisation.
        networks: component to the network that it is.
    """

    title: str
    base_models: tuple[str, ...]
    networks: Mapping[str, Network]
