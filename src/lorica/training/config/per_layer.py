"""Settings of single layers: what a run says about ranks, alphas, rates and first values, by glob."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import Tensor, nn

from lorica.adapters import Adapter, LoRA
from lorica.errors import ConfigError, UnknownNameError
from lorica.runtime.model.supported_layers import weight_shape
from lorica.runtime.model.targets import modules_of
from lorica.runtime.trainable.initials import STARTS, Initial, pissa
from lorica.runtime.trainable.trainable import Place, Trainable
from lorica.training.config.config import RunConfig
from lorica.training.rng import generator

Modules = Mapping[str, Sequence[str]]


def places_of(modules: Modules) -> list[Place]:
    """Return component and path of every layer."""
    return [(component, path) for component, paths in modules.items() for path in paths]


def numbers_by_glob(
    pairs: Iterable[str], places: Sequence[Place], setting: str, *, zero: bool = False
) -> dict[Place, float]:
    """Return the number of each layer that a ``GLOB=NUMBER`` names; the last that fits a layer counts.

    Args:
        pairs: the texts.
        places: the layers.
        setting: where they come from, for messages.
        zero: whether a number may be 0.

    Raises:
        ConfigError: for a text that is no such pair.
        UnknownNameError: if a glob fits no layer that is trained.
    """
    found: dict[Place, float] = {}
    for pair in pairs:
        glob, number = _pair(pair, setting, zero=zero)
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


def rate_of(config: RunConfig, modules: Modules) -> Callable[[str], float] | None:
    """Return the share of its component's learning rate by a factor's name, ``unet/PATH/up``; None if all are 1.

    The rates of ``learning_rate_pattern`` stand in place of that of the component; ``lora_plus_ratio`` multiplies them.
    """
    if config.lora_plus_ratio is None and not config.learning_rate_pattern:
        return None
    ratio = config.lora_plus_ratio or 1.0
    named = numbers_by_glob(config.learning_rate_pattern, places_of(modules), "learning_rate_pattern")
    shares = {f"{component}/{path}": rate / rate_in(config, component) for (component, path), rate in named.items()}

    def share(name: str) -> float:
        place, factor = name.rsplit("/", 1)
        return shares.get(place, 1.0) * (ratio if factor == "up" else 1.0)

    return share


def rate_in(config: RunConfig, component: str) -> float:
    """Return the learning rate of a component."""
    own = config.text_encoder_lr if component.startswith("text_encoder") else None
    return config.learning_rate if own is None else own


def dropouts_of(config: RunConfig, modules: Modules) -> dict[Place, float]:
    """Return the share of its inputs that the adapter of each layer does not see.

    Raises:
        ConfigError: if one is not below 1.
    """
    places = places_of(modules)
    named = numbers_by_glob(config.lora_dropout_pattern, places, "lora_dropout_pattern", zero=True)
    for (_, path), share in named.items():
        if share >= 1:
            raise ConfigError(f"lora_dropout_pattern gives {path} the dropout {share:g}; expected less than 1.")
    return {place: named.get(place, config.lora_dropout) for place in places}


def _first(module: nn.Module, rank: int, scaling: float, rule: str, source: torch.Generator) -> Initial:
    if rule != "pissa":
        return STARTS[rule](weight_shape(module), rank, source)
    return pissa(cast("Tensor", module.weight).cpu(), rank, scaling)


def _pair(text: str, setting: str, *, zero: bool) -> tuple[str, float]:
    glob, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not glob or not (value > 0 or (zero and value == 0)):
        least = "from 0 on" if zero else "above 0"
        raise ConfigError(f"{setting} takes GLOB=NUMBER with a number {least}, such as '*.to_k=0.5', got {text!r}.")
    return glob.strip(), value
