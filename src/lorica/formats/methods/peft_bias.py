"""The bias of a LoRA as PEFT trains it: it counts times the scaling, where a layer's own counts once."""

from __future__ import annotations

import torch
from torch import Tensor

from lorica.adapters import AdapterLayer
from lorica.adapters.base import same
from lorica.formats.methods.recipes import leaves_of, rebuild

LEAF = "lora_B.bias"


def with_scaled_bias(layer: AdapterLayer) -> AdapterLayer:
    """Return the layer with its bias times its scaling, in a dtype that holds the products without loss."""
    if layer.alpha == layer.rank:
        return layer
    leaves = leaves_of(layer)
    leaves["bias"] = scaled(leaves["bias"], layer.alpha / layer.rank)
    return rebuild(layer, leaves, layer.alpha, layer.weight_shape)


def scaled(tensor: Tensor, scaling: float) -> Tensor:
    """Return the products in the smallest dtype, from the tensor's own on, that holds them without loss."""
    exact = tensor.double() * scaling
    kept = (exact.to(dtype) for dtype in (tensor.dtype, torch.float32, torch.float64))
    return next(product for product in kept if torch.equal(product.double(), exact))


def unscaled_bias(layer: AdapterLayer) -> Tensor | None:
    """Return the bias that :func:`with_scaled_bias` makes the layer's own, or None if none does."""
    bias = layer.tensors["bias"]
    if layer.alpha == layer.rank:
        return bias
    if layer.alpha == 0:
        return None
    scaling = layer.alpha / layer.rank
    dtypes = dict.fromkeys((layer.tensors["down"].dtype, bias.dtype, torch.float32, torch.float64))
    candidates = ((bias.double() / scaling).to(dtype) for dtype in dtypes)
    return next((each for each in candidates if same(scaled(each, scaling), bias)), None)
