"""What every adapter method is: a change to one weight, defined by ``delta``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from lorica.errors import ShapeError


class Factors(NamedTuple):
    """Exact thin factors of a change: ``delta = scaling * up.flatten(1) @ down.flatten(1)``.

    ``down`` is ``(r, in, *kernel)`` in the shape that the layer's own operation takes, ``up`` is ``(out, r)``.
    """

    down: Tensor
    up: Tensor
    scaling: float


class AdapterLayer(ABC):
    """A change to one weight: ``W' = W + strength * delta(W)``. An immutable value.

    ``delta`` is the definition. ``factors`` and ``bypass`` are optional faster roads to the same output, and
    ``tests/contracts`` holds every kind to the equality of all of them.
    """

    kind: ClassVar[str]
    __slots__ = ("alpha", "tensors")

    alpha: float
    tensors: Mapping[str, Tensor]

    @property
    @abstractmethod
    def rank(self) -> int:
        """The inner size ``r``."""

    @abstractmethod
    def delta(self, weight: Tensor) -> Tensor:
        """Return the change at strength 1, float32, in the shape of ``weight``."""

    def factors(self) -> Factors | None:
        """Return exact thin factors of the change, or None if the method has none."""
        return None

    def bypass(self, x: Tensor, layer: nn.Module) -> Tensor | None:
        """Return what ``delta`` adds to ``layer(x)`` without building it, or None if there is no such road."""
        del x, layer
        return None

    def check_fits(self, shape: tuple[int, ...]) -> None:
        """Raise ShapeError, saying both shapes, unless this layer changes a weight of the given shape."""
        if self.weight_shape != shape:
            raise ShapeError(
                f"the adapter changes a weight of shape {self.weight_shape}, but the weight here is {shape}."
            )

    @property
    @abstractmethod
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that this layer changes."""

    @abstractmethod
    def map(self, change: Callable[[Tensor], Tensor]) -> AdapterLayer:
        """Return the same layer with ``change`` applied to each tensor (a cast, a move, a copy)."""

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(self, name):
            raise AttributeError(f"{type(self).__name__} is immutable; build a new one to change {name!r}.")
        object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        """Equal means bit for bit: the same kind, alpha, names, dtypes and values."""
        return (
            isinstance(other, AdapterLayer)
            and (self.kind, self.alpha) == (other.kind, other.alpha)
            and self.tensors.keys() == other.tensors.keys()
            and all(same(tensor, other.tensors[name]) for name, tensor in self.tensors.items())
        )

    __hash__ = None  # type: ignore[assignment]  # compares by content of tensors

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self.tensors.items())
        return f"{type(self).__name__}({shapes}, alpha={self.alpha:g})"


def same(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors hold the same dtype and the same values."""
    return a.dtype == b.dtype and torch.equal(a, b)
