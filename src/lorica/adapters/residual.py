"""A low-rank layer and the largest of the numbers that it misses: what LyCORIS extracts from a tuned model.

Source: LyCORIS (Yeh et al. 2023, arXiv:2309.14859), its extraction of differences, where the numbers are called a bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.adapters.base import AdapterLayer, same
from lorica.errors import ShapeError


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where the numbers stand in the weight, read as a matrix: whole numbers, which are never cast.

    Args:
        indices: a row and a column for each number, ``(2, n)``.
        size: the rows and the columns of the matrix, ``(2,)``.
    """

    indices: Tensor
    size: Tensor

    def __eq__(self, other: object) -> bool:
        """Equal means the same dtypes and numbers."""
        return isinstance(other, Places) and same(self.indices, other.indices) and same(self.size, other.size)

    __hash__ = None  # type: ignore[assignment]  # compares by content of tensors

    def __repr__(self) -> str:
        rows, columns = self.size.tolist()
        return f"Places({self.indices.shape[1]} of {rows} x {columns})"


class Residual(AdapterLayer):
    """``delta = D + scaling * S``: ``D`` the delta of a LoRA or LoCon, ``S`` zero but for a few numbers.

    Args:
        inner: the low-rank layer.
        values: the numbers, ``(n,)``.
        places: where they stand in the weight as a matrix ``(out, in * kernel)``; one place named twice adds up.

    Raises:
        ShapeError: if the places are not whole numbers within that matrix, or not as many as the numbers.
    """

    kind = "residual"
    __slots__ = ("inner", "places")
    inner: AdapterLayer
    places: Places

    def __init__(self, inner: AdapterLayer, values: Tensor, places: Places) -> None:
        self.inner, self.places = inner, places
        self._hold(inner.alpha, **inner.tensors, values=values)

    @property
    def rank(self) -> int:
        """The inner layer's rank; the change itself may be of full rank."""
        return self.inner.rank

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that the inner layer changes."""
        return self.inner.weight_shape

    def delta(self, weight: Tensor) -> Tensor:
        """Return the change at strength 1, float32, in the shape of ``weight``."""
        change = self.inner.delta(weight)
        rows, columns = self.places.indices.to(change.device, torch.int64)
        values = self.tensors["values"].to(change.device, torch.float32) * (self.alpha / self.rank)
        return change.flatten(1).index_put((rows, columns), values, accumulate=True).view(weight.shape)

    def map(self, change: Callable[[Tensor], Tensor]) -> Residual:
        """Return the same layer with ``change`` applied to each tensor; the places stay as they are."""
        return Residual(self.inner.map(change), change(self.tensors["values"]), self.places)

    def _check(self) -> None:
        out, *rest = self.weight_shape
        matrix = (out, torch.Size(rest).numel())
        indices, size, values = self.places.indices, self.places.size, self.tensors["values"]
        if indices.is_floating_point() or size.is_floating_point() or tuple(size.flatten().tolist()) != matrix:
            raise ShapeError(
                f"bias_size is {size.flatten().tolist()} of {size.dtype} and bias_indices are {indices.dtype}; "
                f"expected whole numbers for a matrix of {matrix[0]} x {matrix[1]}."
            )
        if indices.ndim != 2 or indices.shape[0] != 2 or tuple(values.shape) != (indices.shape[1],):
            raise ShapeError(
                f"bias_indices has shape {tuple(indices.shape)} and bias_values {tuple(values.shape)}; expected (2, n) "
                "and (n,)."
            )
        if indices.numel() and (indices.min() < 0 or bool((indices.amax(1).cpu() >= torch.tensor(matrix)).any())):
            raise ShapeError(f"bias_indices has places outside of a matrix of {matrix[0]} x {matrix[1]}.")
