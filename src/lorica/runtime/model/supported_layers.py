"""Layers that can carry an adapter, and their weights as numbers, also while those are packed or away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn

from lorica.adapters import AdapterLayer
from lorica.adapters.operation import CONVOLUTIONS
from lorica.errors import ModelError

SUPPORTED = (nn.Linear, nn.Embedding, *CONVOLUTIONS)  # layers with a matrix or kernel: low-rank adapters act on these
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, RMSNorm)  # layers whose weight is one row of numbers
LEAVES = ("weight", "bias")  # the parameters of a layer that adapters change


def is_supported(layer: nn.Module) -> bool:
    """Whether a layer can carry some kind of adapter: a norm only if it has a weight."""
    return isinstance(layer, SUPPORTED) or (isinstance(layer, NORMS) and layer.weight is not None)


def layer_at(component: nn.Module, path: str) -> nn.Module:
    """The layer at a path that is known to exist (``get_submodule`` checks every step, and takes its time)."""
    layer: Any = component
    for name in path.split(".") if path else ():
        layer = layer._modules[name]
    return layer


def weight_shape(layer: nn.Module) -> tuple[int, ...]:
    """Shape of a supported layer's weight, known also while the weight itself is packed or away."""
    if isinstance(layer, nn.Linear):
        return (layer.out_features, layer.in_features)
    return tuple(cast("Tensor", layer.weight).shape)


def axes_of(layer: nn.Module) -> int:
    """Fewest axes that a layer's output has together with a batch axis: one less is the output of one sample."""
    axes = getattr(layer, "normalized_shape", None) or getattr(layer, "dim", None)  # of a norm that has them
    return len(weight_shape(layer)) if axes is None else len(axes) + 1


def check_fits(layer: nn.Module, change: AdapterLayer) -> None:
    """Raise unless an adapter's layer fits this layer.

    Raises:
        ModelError: if layers of this type cannot carry adapters.
        ShapeError: if the change has another shape than the layer's weight.
    """
    if not is_supported(layer):
        raise ModelError(
            f"it is a {type(layer).__name__}; adapters act on "
            f"{', '.join(kind.__name__ for kind in SUPPORTED)} and on norms with a weight."
        )
    if isinstance(layer, nn.Embedding) and change.bias_delta() is not None:
        raise ModelError("the adapter changes a bias, and an Embedding has none.")
    shape = weight_shape(layer)
    if not _same_matrix(change.weight_shape, shape):
        change.check_fits(shape)


def is_plain(weight: Tensor) -> bool:
    """Whether a parameter holds ordinary numbers: neither packed, nor of 8 bits, nor away with an offload hook."""
    numbers = weight.is_floating_point() and weight.element_size() >= 2 and type(weight) in (nn.Parameter, Tensor)
    return numbers and weight.device.type != "meta"


def base_tensor(layer: nn.Module, leaf: str, why: str) -> Tensor | None:
    """A layer's weight or bias as numbers, unpacked if it is packed; None for a bias that is not there.

    Args:
        layer: a supported layer.
        leaf: ``weight`` or ``bias``.
        why: what needs it, for the message.

    Raises:
        ModelError: if it is away with an unknown offload hook, or packed in an unknown way.
    """
    tensor = cast("Tensor | None", getattr(layer, leaf, None))
    if tensor is None or is_plain(tensor):
        return None if tensor is None else tensor.detach()
    if tensor.device.type == "meta":
        return _fetched(layer, leaf, why)
    return _unpacked(layer, tensor, why)


def _fetched(layer: nn.Module, leaf: str, why: str) -> Tensor:
    """The tensor that accelerate's offload hook keeps for a layer."""
    weights: Any = getattr(getattr(layer, "_hf_hook", None), "weights_map", None)
    if weights is None:
        raise ModelError(f"its {leaf} is away (an offload hook holds it), and {why}. Load it before enabling offload.")
    return weights[leaf]


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
    """Largest size in each row of a weight in bitsandbytes' 8 bits; a forward moves it to the layer."""
    if packed.dtype != torch.int8:
        return None
    kept = getattr(packed, "SCB", None)
    return kept if kept is not None else getattr(getattr(layer, "state", None), "SCB", None)


def _same_matrix(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether two shapes are one matrix: a Linear's, and a 1 x 1 convolution's (``proj_in`` of SD 1.x and 2.x)."""
    return len(a) >= 2 <= len(b) and tuple(a[:2]) == tuple(b[:2]) and all(size == 1 for size in (*a[2:], *b[2:]))
