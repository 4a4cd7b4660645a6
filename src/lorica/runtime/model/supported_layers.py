"""Which layers can carry an adapter, and what their weights are, also while those are packed or away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn

from lorica.adapters import AdapterLayer
from lorica.adapters.operation import CONVOLUTIONS
from lorica.errors import ModelError

SERVED = (nn.Linear, nn.Embedding, *CONVOLUTIONS)  # layers with a matrix or kernel: low-rank adapters act on these
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, RMSNorm)  # layers whose weight is one row of numbers


def can_serve(layer: nn.Module) -> bool:
    """Tell whether a layer can carry some kind of adapter: a norm only if it has a weight."""
    return isinstance(layer, SERVED) or (isinstance(layer, NORMS) and layer.weight is not None)


def layer_at(component: nn.Module, path: str) -> nn.Module:
    """Return the layer at a path that is known to exist (``get_submodule`` checks every step, and takes its time)."""
    layer: Any = component
    for name in path.split(".") if path else ():
        layer = layer._modules[name]
    return layer


def weight_shape(layer: nn.Module) -> tuple[int, ...]:
    """Return the shape of a served layer's weight, known also while the weight itself is packed or away."""
    if isinstance(layer, nn.Linear):
        return (layer.out_features, layer.in_features)
    return tuple(cast("Tensor", layer.weight).shape)


def lacks_batch(layer: nn.Module, y: Tensor) -> bool:
    """Tell whether a layer's output is that of one sample, without the axis of a batch."""
    axes = getattr(layer, "normalized_shape", None) or getattr(layer, "dim", None)  # of a norm that has them
    return y.ndim < (len(weight_shape(layer)) if axes is None else len(axes) + 1)


def check_fits(layer: nn.Module, change: AdapterLayer) -> None:
    """Raise unless ``change`` is one of this layer.

    Raises:
        ModelError: if layers of this type cannot be served.
        ShapeError: if the change has another shape than the layer's weight.
    """
    if not can_serve(layer):
        raise ModelError(
            f"it is a {type(layer).__name__}; adapters act on "
            f"{', '.join(kind.__name__ for kind in SERVED)} and on norms with a weight."
        )
    if isinstance(layer, nn.Embedding) and change.bias_delta() is not None:
        raise ModelError("the adapter changes a bias, and an Embedding has none.")
    shape = weight_shape(layer)
    if not _same_matrix(change.weight_shape, shape):
        change.check_fits(shape)


def base_weight(layer: nn.Module, why: str) -> Tensor:
    """Return a layer's weight as numbers; a packed one is unpacked.

    Args:
        layer: a served layer.
        why: what needs the weight, for the message.

    Raises:
        ModelError: if the weight is away with an offload hook, or packed in a way that is not known.
    """
    weight = cast("Tensor", layer.weight)
    if weight.device.type == "meta":
        return _fetched(layer, why)
    if weight.is_floating_point() and weight.element_size() >= 2 and type(weight) in (nn.Parameter, Tensor):
        return weight.detach()
    return _unpacked(layer, weight, why)


def _fetched(layer: nn.Module, why: str) -> Tensor:
    """Return the weight that accelerate's offload hook keeps for a layer."""
    weights: Any = getattr(getattr(layer, "_hf_hook", None), "weights_map", None)
    if weights is None:
        raise ModelError(f"its weight is away (an offload hook holds it), and {why}. Load it before enabling offload.")
    return weights["weight"]


def _unpacked(layer: nn.Module, weight: Tensor, why: str) -> Tensor:
    packed: Any = weight
    if getattr(packed, "quant_state", None) is not None:
        import bitsandbytes  # pyright: ignore[reportMissingImports]

        return cast("Tensor", bitsandbytes.functional.dequantize_4bit(packed.data, packed.quant_state))  # pyright: ignore[reportUnknownMemberType]
    scales = _row_scales(layer, packed)
    if scales is not None:
        return weight.detach().float() * (scales.float() / 127).unsqueeze(1)
    if getattr(type(packed), "dequantize", Tensor.dequantize) is not Tensor.dequantize:  # torchao's own
        return packed.dequantize()
    if packed.is_floating_point():  # float8: few digits, but numbers
        return weight.detach().float()
    raise ModelError(
        f"its weight is quantised ({weight.dtype}) in a way that cannot be unpacked here, and {why}. Load the adapter "
        "onto an unquantised model, or extract a plain LoRA from it first."
    )


def _row_scales(layer: nn.Module, packed: Any) -> Tensor | None:
    """Return the largest size in each row of a weight in bitsandbytes' 8 bits; a forward moves it to the layer."""
    if packed.dtype != torch.int8:
        return None
    kept = getattr(packed, "SCB", None)
    return kept if kept is not None else getattr(getattr(layer, "state", None), "SCB", None)


def _same_matrix(a: Sequence[int], b: Sequence[int]) -> bool:
    """Tell whether two shapes are one matrix: a Linear's, and a 1 x 1 convolution's (``proj_in`` of SD 1.x and 2.x)."""
    return len(a) >= 2 <= len(b) and tuple(a[:2]) == tuple(b[:2]) and all(size == 1 for size in (*a[2:], *b[2:]))
