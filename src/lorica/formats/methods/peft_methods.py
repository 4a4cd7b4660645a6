"""What PEFT's configuration says of a method beside ranks and alphas, put into the layers that the tensors make.

The same tensors mean other changes under other options (how a rotation is computed, which axis a factor is of). What a
layer cannot hold is a reason not to read it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any, cast

import torch
from torch import Tensor

from lorica.adapters import IA3, AdapterLayer, OFTv2
from lorica.formats.methods.peft_bias import scaled
from lorica.formats.methods.recipes import leaves_of, rebuild
from lorica.formats.peft_config import COFT_EPS, CONFIG_FILE, SERIES_SINCE, Patterns
from lorica.models.clip import spellings

Shape = tuple[int, ...]
Revise = Callable[[str, AdapterLayer, Shape | None], AdapterLayer | str]
CONV1D = 3  # dimensions of its weight
_FEWEST_TERMS = 3  # of the series that a layer computes; PEFT's with fewer is no rotation, not even nearly


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of one module beside its tensors.

    Args:
        config: PEFT's configuration, empty where there is none.
        path: the module's path.
        shape: the shape of its weight, if the model is known.
    """

    config: Mapping[str, Any]
    path: str
    shape: Shape | None


def revision(config: Mapping[str, Any] | None) -> Revise:
    """Return what makes of a layer, as its tensors alone tell it, the one that the configuration means.

    The result is a reason where there is no such layer.
    """
    known = config or {}

    def revise(path: str, layer: AdapterLayer, shape: Shape | None) -> AdapterLayer | str:
        reviser = REVISERS.get(layer.kind)
        if reviser is None:
            return layer
        if known.get("fan_in_fan_out"):
            return f"its {CONFIG_FILE} says fan_in_fan_out, a weight stored transposed, which cannot be read."
        return reviser(layer, Told(known, path, shape))

    return revise


def _oft(layer: AdapterLayer, told: Told) -> AdapterLayer | str:
    """Return the rotation as PEFT computes it."""
    vectors, config = layer.tensors["vectors"], told.config
    if "use_cayley_neumann" not in config:
        return f"only an {CONFIG_FILE} with use_cayley_neumann tells how its rotation is computed, and there is none."
    if told.shape is not None and prod(told.shape[2:]) > 1:
        return (
            "it is an OFT of a convolution with a kernel, which PEFT does not compute as a change of the weight: where "
            "patches overlap it counts their pixels several times."
        )
    shared = bool(config.get("block_share"))
    if shared and told.shape is None:
        return "its one block is shared by all inputs, and only the model tells how many those are. Name the target."
    terms = _terms(config)
    if isinstance(terms, str):
        return terms
    inputs = prod(told.shape[1:]) if shared and told.shape is not None else None
    return OFTv2(
        _constrained(vectors, float(config.get("eps", COFT_EPS))) if config.get("coft") else vectors,
        in_features=inputs,
        shared=shared,
        terms=terms,
        turns_kernel=False,
    )


def _terms(config: Mapping[str, Any]) -> int | str | None:
    """Return how many terms the series of a rotation has, None if it is no series, or why that cannot be read."""
    if not config["use_cayley_neumann"]:
        return None
    if _is_before(config.get("peft_version"), SERIES_SINCE):
        return (
            f"its {CONFIG_FILE} names no peft_version from {SERIES_SINCE} on, and before that PEFT had another series "
            "for its rotation: PEFT of today cannot read it either."
        )
    terms = int(config.get("num_cayley_neumann_terms", 5))
    if terms < _FEWEST_TERMS:
        return f"its {CONFIG_FILE} says num_cayley_neumann_terms={terms}; {_FEWEST_TERMS} or more can be read."
    return terms


def _is_before(version: object, other: str) -> bool:
    """Tell whether a version as PEFT writes it (``0.18.0``, ``0.19.0.dev0@abc``, nothing) is before another."""
    return _numbers(str(version or "0")) < _numbers(other)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version.partition("@")[0])[:2]))


def _constrained(vectors: Tensor, eps: float) -> Tensor:
    """Return the vectors as ``coft`` has them in use: each block's matrix no longer than ``eps / sqrt(n)``."""
    limit = eps / sqrt(len(vectors))
    length = vectors.float().norm(dim=1, keepdim=True) * sqrt(2)  # of the whole matrix, which has each number twice
    return torch.where(length > limit, vectors.float() * (limit / length), vectors.float()).to(vectors.dtype)


def _ia3(layer: AdapterLayer, told: Told) -> AdapterLayer | str:
    """Return the factors along the axis that they are of, which a convolution's shape does not tell."""
    scale, feedforward = layer.tensors["scale"], told.config.get("feedforward_modules")
    if feedforward is None:
        return layer if scale.ndim == 2 else _untold_axis()
    on_input = any(_is_named(feedforward, path) for path in spellings(told.path))
    return IA3(scale, on_input, is_factor=True)


def _untold_axis() -> str:
    return (
        f"only an {CONFIG_FILE} with feedforward_modules tells whether the factors of a convolution are of its inputs "
        "or of its outputs, and there is none."
    )


def _is_named(names: str | list[str], path: str) -> bool:
    """Tell whether a path is named: an expression names it whole, a list by its end."""
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path.endswith(name) for name in names)


def _loha(layer: AdapterLayer, told: Told) -> AdapterLayer | str:
    """Return a LoHa of a Conv1d with cores of as many axes as the weight: PEFT's have one more."""
    cores = {name: tensor for name, tensor in layer.tensors.items() if name in ("t1", "t2")}
    shapes = {tuple(core.shape[3:]) for core in cores.values()}
    if told.shape is None or len(told.shape) != CONV1D or shapes != {(1,)}:
        return layer
    leaves = {**leaves_of(layer), **{f"loha.{name}": core.squeeze(-1) for name, core in cores.items()}}
    return rebuild(layer, leaves, layer.alpha, told.shape)


def _lokr(layer: AdapterLayer, told: Told) -> AdapterLayer | str:
    """Return one of two whole factors with PEFT's scaling in the smaller: there it counts, elsewhere it does not."""
    if "r" not in told.config:
        return layer
    if "w2" in layer.tensors and layer.tensors["w2"].ndim == CONV1D:
        return "it is a LoKr of a Conv1d with a whole w2, whose axes PEFT mixes up: what it trained is no such layer."
    if not {"w1", "w2"} <= layer.tensors.keys():
        return layer
    patterns = Patterns(cast("Mapping[str, float]", told.config.get("rank_pattern") or {}))
    exceptions = (patterns.get(path) for path in spellings(told.path))
    rank = next((value for value in exceptions if value is not None), told.config["r"])
    scaling = layer.alpha / float(rank)
    if scaling == 1:
        return layer
    leaves = leaves_of(layer)
    leaves["lokr.w1"] = scaled(leaves["lokr.w1"], scaling)
    return rebuild(layer, leaves, layer.rank, layer.weight_shape)


# A layer's kind to what PEFT's configuration makes of it.
REVISERS: dict[str, Callable[[AdapterLayer, Told], AdapterLayer | str]] = {
    "oft_v2": _oft, "ia3": _ia3, "loha": _loha, "lokr": _lokr,
}  # fmt: skip
