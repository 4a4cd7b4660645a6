"""Frobenius norm of a layer's change, from thin factors, without building the change.

``|U D|^2 = sum((U^T U) * (D D^T))``: two small Gram matrices of ``r x r``.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite, nan, prod, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorica.adapters import AdapterLayer
from lorica.adapters.base import ANY, Factors
from lorica.formats.storage.unread import Unread

# Below this share of the factors' own sizes, float32 leaves too few digits of the product, and float64 is used.
CANCELLED = 1e-4
BUFFER = 1 << 20  # numbers of the buffer that all factors share; larger factors get memory of their own


def norms_of(layers: Iterable[AdapterLayer]) -> list[float | None]:
    """Norm of each layer's change, as by :func:`norm_of`."""
    buffer = np.empty(BUFFER, np.float32)
    return [norm_of(layer, buffer) for layer in layers]


def norm_of(layer: AdapterLayer, buffer: NDArray[np.float32] | None = None) -> float | None:
    """Norm of a layer's change at strength 1; None if the change depends on the base weight.

    A layer with values that are NaN or infinite has the norm NaN.

    Args:
        layer: the layer.
        buffer: memory for the numbers of one factor.
    """
    factors = layer.factors()
    if factors is None:
        return _norm_of_delta(layer)
    with np.errstate(all="ignore"):  # the result tells
        return abs(factors.scaling) * _product_norm(factors, buffer)


def _product_norm(factors: Factors, buffer: NDArray[np.float32] | None) -> float:
    """Norm of ``up @ down``.

    Two products that nearly cancel leave few digits in float32; they are computed again in float64. Where the factors
    are not thin the product itself is smaller than the Gram matrices.
    """
    rank, width, height = factors.down.shape[0], prod(factors.down.shape[1:]), factors.up.shape[0]
    if rank * (height + width) > height * width:
        return float(np.linalg.norm((_matrix(factors.up) @ _matrix(factors.down)).astype(np.float64)))
    inner = _gram(_matrix(factors.down, buffer))
    outer = _gram(_matrix(factors.up, buffer).T)
    squared = float(np.sum(inner * outer, dtype=np.float64))
    if squared > CANCELLED * float(np.trace(inner)) * float(np.trace(outer)):
        return sqrt(squared)
    wide = (matrix.astype(np.float64) for matrix in (_matrix(factors.down), _matrix(factors.up).T))
    squared = float(np.vdot(*map(_gram, wide)))
    return sqrt(max(squared, 0.0)) if isfinite(squared) else nan


def _gram(matrix: NDArray[Any]) -> NDArray[Any]:
    """Inner products of all pairs of rows."""
    return matrix @ matrix.T


def _norm_of_delta(layer: AdapterLayer) -> float | None:
    """Norm of a change that has no thin factors, if it is the same for every base weight.

    A base of NaN tells: wherever it enters, the change is NaN too. A size that the layer does not know is taken as
    one: the only change that does not depend on it is one of the bias alone.
    """
    delta = layer.delta(torch.full([1 if size == ANY else size for size in layer.weight_shape], nan))
    return float(torch.linalg.vector_norm(delta)) if delta.isfinite().all() else None


def _matrix(tensor: Any, buffer: NDArray[np.float32] | None = None) -> NDArray[Any]:
    """Factor as a matrix in float32; float64 stays as it is."""
    array = tensor.array(buffer) if isinstance(tensor, Unread) else _numbers(tensor)
    return array.reshape(array.shape[0], -1)


def _numbers(tensor: torch.Tensor) -> NDArray[Any]:
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    return wide.detach().cpu().numpy()
