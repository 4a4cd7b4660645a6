"""Layer of any method as a plain LoRA: by its exact factors, or by the best approximation of a given rank.

The best rank-``r`` approximation of a matrix keeps its ``r`` largest singular values (Eckart and Young 1936).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import nan, sqrt

import torch
from torch import Tensor

from lorica.adapters import AdapterLayer, Factors, LoRA
from lorica.linalg import svd_of_product

LEAST_DIMENSIONS = 2  # of a weight that a LoRA can change
SVD = tuple[Tensor, Tensor, Tensor]  # left vectors, values from the largest down, right vectors


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A layer that became a plain LoRA.

    Args:
        layer: the LoRA.
        exact: whether its factors are exact.
        error: ``|delta - delta of the LoRA| / |delta|``, Frobenius, in the dtype that is written.
    """

    layer: LoRA
    exact: bool
    error: float


def rewrite(
    layer: AdapterLayer,
    shape: tuple[int, ...],
    *,
    rank: int | None,
    dtype: torch.dtype | None,
    base: Callable[[], Tensor] | None,
) -> Rewritten | str:
    """Layer as a plain LoRA, or the reason why it cannot be one.

    Args:
        layer: the layer.
        shape: the shape of the weight that it changes.
        rank: the largest rank to write; without it only thin exact factors are accepted.
        dtype: the dtype to write; by default float32 for exact factors, else the dtype of the layer.
        base: reads the base weight, for changes that depend on it.
    """
    if len(shape) < LEAST_DIMENSIONS:
        return f"a {layer.kind} layer on a weight of shape {shape} changes no matrix, so it cannot be a LoRA."
    weight = _weight_for(layer, shape, base)
    if isinstance(weight, str):
        return weight
    factors = layer.factors_on(weight)
    if factors is not None and _will_do(factors, shape, rank):
        return _finish(_from_factors(factors), layer, weight, shape, dtype or torch.float32, exact=True)
    if rank is None:
        return (
            f"a {layer.kind} layer has no exact factors that are smaller than the change itself. An approximation can "
            "be written: approximate=RANK (--approximate rank=RANK)."
        )
    own = next(iter(layer.tensors.values())).dtype
    closest = _closest(_dense(layer.delta(weight)) if factors is None else _thin(factors), shape, rank)
    return _finish(closest, layer, weight, shape, dtype or own, exact=False)


def _weight_for(layer: AdapterLayer, shape: tuple[int, ...], base: Callable[[], Tensor] | None) -> Tensor | str:
    """Weight to compute the change on: NaN if the change is the same for all weights, else the base's."""
    unknown = torch.full(shape, nan)
    if layer.delta(unknown).isfinite().all():  # NaN would have spread through any formula that reads the weight
        return unknown
    if base is None:
        return (
            f"the change of a {layer.kind} layer depends on the weight of the base model. Name its folder: "
            "model=FOLDER (--model FOLDER)."
        )
    return base()


def _will_do(factors: Factors, shape: tuple[int, ...], rank: int | None) -> bool:
    """Whether exact factors are accepted: within the rank, or smaller than the change."""
    own, out = factors.down.shape[0], shape[0]
    inputs = torch.Size(shape[1:]).numel()
    return own <= rank if rank is not None else own * (out + inputs) <= out * inputs


def _from_factors(factors: Factors) -> LoRA:
    ones = [1] * (factors.down.ndim - 2)
    up = factors.up.reshape(*factors.up.shape[:2], *ones)
    return LoRA(factors.down, up, factors.scaling * factors.down.shape[0])


def _dense(delta: Tensor) -> SVD:
    """Singular value decomposition of a change ``(out, in * kernel)``, in float64."""
    return torch.linalg.svd(delta.double().flatten(1), full_matrices=False)


def _thin(factors: Factors) -> SVD:
    """Singular value decomposition of a change that is known by its factors, without building it."""
    return svd_of_product(factors.scaling * factors.up.double(), factors.down.flatten(1))


def _closest(decomposed: SVD, shape: tuple[int, ...], rank: int) -> LoRA:
    """LoRA of a rank that is closest to a change, its two factors of equal norm."""
    left, sizes, right = decomposed
    kept = min(rank, len(sizes))
    root = sizes[:kept].sqrt()
    ones = [1] * (len(shape) - 2)
    down = (root[:, None] * right[:kept]).reshape(kept, *shape[1:])
    return LoRA(down.contiguous(), (left[:, :kept] * root).reshape(-1, kept, *ones).contiguous(), float(kept))


def _finish(
    lora: LoRA, layer: AdapterLayer, weight: Tensor, shape: tuple[int, ...], dtype: torch.dtype, *, exact: bool
) -> Rewritten:
    """The LoRA in the dtype that is written, with the layer's bias, and its error."""
    bias = layer.tensors.get("bias")
    extra = {} if bias is None else {"bias": bias}
    # PEFT multiplies a bias by alpha / rank too, so a layer with a bias is written with a scaling of 1.
    up, alpha = (lora.up, lora.alpha) if bias is None else (lora.up * lora.scaling, None)
    written = LoRA(lora.down.to(dtype).contiguous(), up.to(dtype).contiguous(), alpha, **extra)
    wanted = layer.delta(weight).reshape(shape)
    length = float(torch.linalg.vector_norm(wanted))
    off = float(torch.linalg.vector_norm(wanted - written.delta(wanted)))
    return Rewritten(written, exact, off / length if length else sqrt(off))
