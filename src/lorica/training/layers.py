"""Settings of single layers: what a run says about ranks, alphas, rates and first values, by glob."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import Tensor, nn

from lorica.adapters import Adapter, LoRA
from lorica.errors import ConfigError, UnknownNameError
from lorica.runtime.initials import STARTS, Initial, pissa
from lorica.runtime.served import weight_shape
from lorica.runtime.targets import modules_of
from lorica.runtime.trainable import Place, Trainable
from lorica.training.config import RunConfig
from lorica.training.rng import generator

Modules = Mapping[str, Sequence[str]]


def places_of(modules: Modules) -> list[Place]:
    """Return component and path of every layer."""
    return [(component, path) for component, paths in modules.items() for path in paths]


def numbers_by_glob(pairs: Iterable[str], places: Sequence[Place], setting: str) -> dict[Place, float]:
    """Return the number of each layer that a ``GLOB=NUMBER`` names; the last that fits a layer counts.

    Raises:
        ConfigError: for a text that is no such pair.
        UnknownNameError: if a glob fits no layer that is trained.
    """
    found: dict[Place, float] = {}
    for pair in pairs:
        glob, number = _pair(pair, setting)
        fitting = [place for place in places if fnmatchcase(place[1], glob)]
        if not fitting:
            raise UnknownNameError.among_many(f"layer in {setting}", glob, [path for _, path in places])
        found.update(dict.fromkeys(fitting, number))
    return found


def ranks_of(config: RunConfig, modules: Modules) -> dict[Place, int]:
    """Return the rank of each layer.

    Raises:
        ConfigError: if one is not a whole number from 1 on.
    """
    places = places_of(modules)
    named = numbers_by_glob(config.rank_pattern, places, "rank_pattern")
    for (_, path), rank in named.items():
        if rank < 1 or rank != int(rank):
            raise ConfigError(f"rank_pattern gives {path} the rank {rank:g}; expected a whole number from 1 on.")
    return {place: int(named.get(place, config.rank)) for place in places}


def alphas_of(config: RunConfig, modules: Modules) -> dict[Place, float]:
    """Return the alphas of layers whose alpha is not their rank."""
    places = places_of(modules)
    common = {} if config.alpha is None else dict.fromkeys(places, config.alpha)
    return {**common, **numbers_by_glob(config.alpha_pattern, places, "alpha_pattern")}


def set_first_values(trainable: Trainable, parts: Mapping[str, nn.Module], config: RunConfig) -> None:
    """Draw the factors anew, by the rule that is asked for.

    Raises:
        ConfigError: if a rank is too large for PiSSA.
    """
    if config.init_lora_weights == "gaussian":
        return  # they are
    components: dict[str, dict[str, LoRA]] = {}
    for component, path, layer in trainable.adapter().layers():
        rank, alpha = layer.rank, layer.alpha
        module = modules_of(parts[component])[path]
        source = generator(config.seed, 0, f"initial/{component}/{path}")
        first = _first(module, rank, alpha / rank, config.init_lora_weights, source)
        up = first.up.view(*first.up.shape, *[1] * (first.down.ndim - 2))
        components.setdefault(component, {})[path] = LoRA(first.down, up, alpha)
    trainable.copy_from(Adapter(components))
    if config.init_lora_weights == "pissa":
        trainable.count_from_here()


def rate_of(config: RunConfig) -> Callable[[str], float] | None:
    """Return the share of the learning rate by a factor's name, ``unet/PATH/up``; None if it is 1 for all."""
    if config.lora_plus_ratio is None:
        return None
    ratio = config.lora_plus_ratio
    return lambda name: ratio if name.endswith("/up") else 1.0


def _first(module: nn.Module, rank: int, scaling: float, rule: str, source: torch.Generator) -> Initial:
    if rule != "pissa":
        return STARTS[rule](weight_shape(module), rank, source)
    return pissa(cast("Tensor", module.weight).cpu(), rank, scaling)


def _pair(text: str, setting: str) -> tuple[str, float]:
    glob, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not glob or not value > 0:
        raise ConfigError(f"{setting} takes GLOB=NUMBER with a number above 0, such as '*.to_k=8', got {text!r}.")
    return glob.strip(), value
