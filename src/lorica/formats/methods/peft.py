"""What PEFT's configuration and file say of the layers of a method: the words in which each method answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lorica.adapters import AdapterLayer
from lorica.models.folding import Shape

MOST_DIMENSIONS = 4  # of a weight that a LoHa or LoKr of PEFT can change: a Conv2d's
CONV1D = 3  # dimensions of its weight


@dataclass(frozen=True, slots=True)
class PeftModule:
    """What is known of one module beside its tensors.

    Args:
        config: PEFT's configuration, empty where there is none.
        path: the module's path.
        shape: the shape of its weight, if the model is known.
    """

    config: Mapping[str, Any]
    path: str
    shape: Shape | None


@dataclass(frozen=True, slots=True)
class PeftPlan:
    """How PEFT holds the layers of one model: it makes them of the configuration, then fills in the file's tensors.

    Args:
        config: what its configuration says of them.
        shared: tensors that are there once for all modules, by key.
        refused: path to why PEFT cannot hold the layer there.
    """

    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    shared: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    refused: Mapping[str, str] = field(default_factory=dict[str, str])


def refuse_biases(layers: Mapping[str, AdapterLayer]) -> dict[str, str]:
    """Path to the reason why PEFT cannot hold a layer, for each that changes the bias."""
    reason = "it changes the bias too, which PEFT does beside a LoRA only."
    return {path: reason for path, layer in layers.items() if "bias" in layer.tensors}


def scaled(tensor: Tensor, scaling: float) -> Tensor:
    """The products in the smallest dtype, from the tensor's own on, that holds them without loss."""
    if scaling == 1:
        return tensor
    exact = tensor.double() * scaling
    kept = (exact.to(dtype) for dtype in (tensor.dtype, torch.float32, torch.float64))
    return next((product for product in kept if torch.equal(product.double(), exact)), exact)  # NaN equals nothing
