"""Settings of single layers: ranks, alphas, dropouts and learning rates by glob."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from lorica.errors import ConfigError, UnknownNameError
from lorica.training.config.adapter import AdapterSettings
from lorica.training.config.optimizer import OptimizerSettings

LayerPath = tuple[str, str]  # component, module path


def numbers_by_glob(
    pairs: Iterable[str], layers: Sequence[LayerPath], setting: str, *, zero: bool = False
) -> dict[LayerPath, float]:
    """The number of each layer that a ``GLOB=NUMBER`` names; the last glob that fits a layer counts.

    Args:
        pairs: the texts.
        layers: component and path of every layer.
        setting: name of the setting that holds the texts, for messages.
        zero: whether a number may be 0.

    Raises:
        ConfigError: for a text that is no such pair.
        UnknownNameError: if a glob fits no layer that is trained.
    """
    found: dict[LayerPath, float] = {}
    for pair in pairs:
        glob, number = _pair(pair, setting, zero=zero)
        fitting = [layer for layer in layers if fnmatchcase(layer[1], glob)]
        if not fitting:
            raise UnknownNameError.among_many(f"layer in {setting}", glob, [path for _, path in layers])
        found.update(dict.fromkeys(fitting, number))
    return found


def ranks_of(settings: AdapterSettings, layers: Sequence[LayerPath]) -> dict[LayerPath, int]:
    """Rank of each layer.

    Raises:
        ConfigError: if one is not a whole number from 1 on.
    """
    named = numbers_by_glob(settings.rank_pattern, layers, "rank_pattern")
    for (_, path), rank in named.items():
        if rank < 1 or rank != int(rank):
            raise ConfigError(f"rank_pattern gives {path} the rank {rank:g}; expected a whole number from 1 on.")
    return {layer: int(named.get(layer, settings.rank)) for layer in layers}


def alphas_of(settings: AdapterSettings, layers: Sequence[LayerPath]) -> dict[LayerPath, float]:
    """Alphas of the layers whose alpha is not their rank."""
    common = {} if settings.alpha is None else dict.fromkeys(layers, settings.alpha)
    return {**common, **numbers_by_glob(settings.alpha_pattern, layers, "alpha_pattern")}


def dropouts_of(settings: AdapterSettings, layers: Sequence[LayerPath]) -> dict[LayerPath, float]:
    """Share of its inputs that the adapter of each layer drops.

    Raises:
        ConfigError: if one is not below 1.
    """
    named = numbers_by_glob(settings.lora_dropout_pattern, layers, "lora_dropout_pattern", zero=True)
    for (_, path), share in named.items():
        if share >= 1:
            raise ConfigError(f"lora_dropout_pattern gives {path} the dropout {share:g}; expected less than 1.")
    return {layer: named.get(layer, settings.lora_dropout) for layer in layers}


def rate_of(settings: OptimizerSettings, layers: Sequence[LayerPath]) -> Callable[[str], float] | None:
    """Share of its component's learning rate by a factor's name, ``unet/PATH/up``; None if all are 1.

    A rate of ``learning_rate_pattern`` replaces that of the component; ``lora_plus_ratio`` multiplies it.
    """
    if settings.lora_plus_ratio is None and not settings.learning_rate_pattern:
        return None
    ratio = settings.lora_plus_ratio or 1.0
    named = numbers_by_glob(settings.learning_rate_pattern, layers, "learning_rate_pattern")
    shares = {f"{component}/{path}": rate / rate_in(settings, component) for (component, path), rate in named.items()}

    def share(name: str) -> float:
        layer, factor = name.rsplit("/", 1)
        return shares.get(layer, 1.0) * (ratio if factor == "up" else 1.0)

    return share


def rate_in(settings: OptimizerSettings, component: str) -> float:
    """Learning rate of a component."""
    own = settings.text_encoder_lr if component.startswith("text_encoder") else None
    return settings.learning_rate if own is None else own


def layers_in(modules: Mapping[str, Sequence[str]]) -> list[LayerPath]:
    """Component and path of every layer."""
    return [(component, path) for component, paths in modules.items() for path in paths]


def _pair(text: str, setting: str, *, zero: bool) -> tuple[str, float]:
    glob, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not glob or not (0 < value < math.inf or (zero and value == 0)):
        least = "from 0 on" if zero else "above 0"
        raise ConfigError(f"{setting} takes GLOB=NUMBER with a number {least}, such as '*.to_k=0.5', got {text!r}.")
    return glob.strip(), value
