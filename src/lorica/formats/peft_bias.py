"""The bias of a LoRA as PEFT trains it: it counts times the scaling, where a layer's own counts once."""

from __future__ import annotations

import torch
from torch import Tensor

from lorica.adapters import AdapterLayer
from lorica.formats.recipes import leaves_of, rebuild

LEAF = "lora_B.bias"


def with_scaled_bias(layer: AdapterLayer) -> AdapterLayer:
    """Return the layer with its bias times its scaling, in a dtype that holds the products without loss."""
    if layer.alpha == layer.rank:
        return layer
    leaves = leaves_of(layer)
    exact = leaves["bias"].double() * (layer.alpha / layer.rank)
    kept = (exact.to(dtype) for dtype in (leaves["bias"].dtype, torch.float32, torch.float64))
    leaves["bias"] = next(bias for bias in kept if torch.equal(bias.double(), exact))
    return rebuild(layer, leaves, layer.alpha, layer.weight_shape)


def unscaled_bias(layer: AdapterLayer) -> Tensor | None:
    """Return the bias that :func:`with_scaled_bias` makes the layer's own, or None if none does."""
    bias = layer.tensors["bias"]
    if layer.alpha == layer.rank:
        return bias
    if layer.alpha == 0:
        return None
    scaling = layer.alpha / layer.rank
    for dtype in (layer.tensors["down"].dtype, torch.float32, torch.float64):
        smaller = (bias.double() / scaling).to(dtype)
        if torch.equal((smaller.double() * scaling).to(bias.dtype), bias):
            return smaller
    return None
