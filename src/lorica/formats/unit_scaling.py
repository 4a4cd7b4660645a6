"""Alphas put into the tensors, for a format in which not every reader finds them, and taken out again.

The files of diffusers tell an alpha in their header alone, where ComfyUI does not look: it would apply a change
``rank / alpha`` times. So ``up`` is written as ``alpha / rank * up``, for which the alpha is the rank, and Lorica's own
entry of the header tells what it was (docs/decisions/0030).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from lorica.adapters import Adapter, AdapterLayer
from lorica.adapters.base import same
from lorica.errors import FormatError
from lorica.formats.methods.layers import inner_of, leaves_of, method_of, rebuild
from lorica.formats.peft_config import number_in

ALPHAS = "lorica.alpha"  # metadata: component and path to the alpha; without a path the one of all others

Layers = Mapping[str, AdapterLayer]


def with_unit_scaling(layers: Layers) -> dict[str, AdapterLayer]:
    """The layers by path, each with its rank for alpha; those that are not low-rank as they are."""
    return {path: _folded(layer) for path, layer in layers.items()}


def alphas_of(adapter: Adapter) -> dict[str, str]:
    """What the metadata must tell to know the alphas of an adapter again."""
    own = {f"{component}.{path}": layer.alpha for component, path, layer in adapter.layers() if _pairs(layer)}
    if all(layer.alpha == layer.rank for _, _, layer in adapter.layers() if _pairs(layer)):
        return {}
    usual = Counter(own.values()).most_common(1)[0][0]
    told = {"": usual, **{name: alpha for name, alpha in own.items() if alpha != usual}}
    return {ALPHAS: json.dumps(told, sort_keys=True)}


def with_own_alphas(components: Mapping[str, Layers], text: str, source: str) -> dict[str, dict[str, AdapterLayer]]:
    """The layers with the alphas that the metadata tells, where they are bit for bit what was written.

    Raises:
        FormatError: if the text is malformed.
    """
    try:
        told = {name: number_in(value, f"the alpha of {name!r:.80}") for name, value in dict(json.loads(text)).items()}
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"{source}: its metadata {ALPHAS!r} is malformed: {error}.") from error
    usual = told.get("")
    return {
        component: {path: _unfolded(layer, told.get(f"{component}.{path}", usual)) for path, layer in layers.items()}
        for component, layers in components.items()
    }


def _folded(layer: AdapterLayer) -> AdapterLayer:
    """The same change with the rank for alpha: the scaling is in ``up``."""
    if not _pairs(layer) or layer.alpha == layer.rank:
        return layer
    leaves = leaves_of(layer)
    for up, _ in _pairs(layer):
        leaves[up] = _times(leaves[up], layer.alpha / layer.rank)
    return rebuild(layer, leaves, float(layer.rank), layer.weight_shape)


def _unfolded(layer: AdapterLayer, alpha: float | None) -> AdapterLayer:
    """The layer of which :func:`_folded` makes the given one, or the given one if there is none."""
    if not alpha or not _pairs(layer) or layer.alpha != layer.rank or alpha == layer.rank:
        return layer
    leaves = leaves_of(layer)
    for up, down in _pairs(layer):
        leaves[up] = _divided(leaves[up], alpha / layer.rank, leaves[down].dtype)
    before = rebuild(layer, leaves, alpha, layer.weight_shape)
    after, stored = leaves_of(_folded(before)), leaves_of(layer)
    return before if all(same(after[leaf], stored[leaf]) for leaf in stored) else layer


def _times(tensor: Tensor, scaling: float) -> Tensor:
    """The products in the first dtype, from the tensor's own on, of which a division gives the tensor again."""
    exact = tensor.double() * scaling
    dtypes = dict.fromkeys((tensor.dtype, torch.float32, torch.float64))
    products = (exact.to(dtype) for dtype in dtypes)
    return next((each for each in products if scaling and same(_divided(each, scaling, tensor.dtype), tensor)), exact)


def _divided(product: Tensor, scaling: float, dtype: torch.dtype) -> Tensor:
    return (product.double() / scaling).to(dtype)


def _pairs(layer: AdapterLayer) -> tuple[tuple[str, str], ...]:
    """``up`` and ``down`` of a LoRA, also of one inside a DoRA."""
    inner = inner_of(layer)
    if inner is not None:
        return _pairs(inner)
    return method_of(layer).pairs(layer) if layer.kind == "lora" else ()
