"""How large the change of a module is: its Frobenius norm, from thin factors, without building the change.

``|U D|^2 = sum((U^T U) * (D D^T))``: two small Gram matrices of ``r x r``.
"""

from __future__ import annotations

from math import isfinite, nan, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorica.adapters import AdapterLayer
from lorica.adapters.base import ANY
from lorica.formats.unread import Unread

# Below this share of the factors' own sizes, float32 leaves too few digits of the product, and float64 is used.
CANCELLED = 1e-4


def norm_of(layer: AdapterLayer) -> float | None:
    """Return the norm of a layer's change at strength 1; None if the change depends on the base weight.

    A layer with values that are NaN or infinite has the norm NaN.
    """
    factors = layer.factors()
    if factors is None:
        return _norm_of_delta(layer)
    with np.errstate(all="ignore"):  # the result tells
        return abs(factors.scaling) * product_norm(_matrix(factors.down), _matrix(factors.up))


def product_norm(down: NDArray[Any], up: NDArray[Any]) -> float:
    """Return the norm of ``up @ down``, for ``down (r, in)`` and ``up (out, r)`` in float32.

    Two products that nearly cancel leave few digits; they are computed again in float64. Where the factors are not thin
    the product itself is smaller than the Gram matrices.
    """
    if len(down) * (up.shape[0] + down.shape[1]) > up.shape[0] * down.shape[1]:
        return float(np.linalg.norm((up @ down).astype(np.float64)))
    inner, outer = down @ down.T, up.T @ up
    squared = float(np.sum(inner * outer, dtype=np.float64))
    if squared > CANCELLED * float(np.trace(inner)) * float(np.trace(outer)):
        return sqrt(squared)
    wide_down, wide_up = down.astype(np.float64), up.astype(np.float64)
    squared = float(np.sum((wide_down @ wide_down.T) * (wide_up.T @ wide_up)))
    return sqrt(max(squared, 0.0)) if isfinite(squared) else nan


def _norm_of_delta(layer: AdapterLayer) -> float | None:
    """Return the norm of a change that has no thin factors, if it is the same for every base weight.

    A base of NaN tells: where it plays a part, the change is NaN too. A size that the layer does not know is taken as
    one: only a change of nothing but the bias does not depend on it.
    """
    delta = layer.delta(torch.full([1 if size == ANY else size for size in layer.weight_shape], nan))
    return float(torch.linalg.vector_norm(delta)) if delta.isfinite().all() else None


def _matrix(tensor: Any) -> NDArray[Any]:
    """Return a factor as a matrix of float32; float64 stays what it is."""
    array = tensor.array() if isinstance(tensor, Unread) else _numbers(tensor)
    return array.reshape(array.shape[0], -1)


def _numbers(tensor: torch.Tensor) -> NDArray[Any]:
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    return wide.detach().cpu().numpy()
