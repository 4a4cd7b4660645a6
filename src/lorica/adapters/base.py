"""What every adapter method is: a change to one weight, defined by ``delta``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from lorica.errors import ShapeError

ANY = -1  # stands in ``weight_shape`` for a size that the tensors of a layer do not tell
Layer = TypeVar("Layer", bound="AdapterLayer")
Copied = Callable[[Tensor, "torch.device", "torch.dtype"], Tensor]  # in quotes: inspect reads without torch, 0012
_put = object.__setattr__  # a layer's own refuses, because a layer is immutable


class Factors(NamedTuple):
    """Exact thin factors of a change: ``delta = scaling * up.flatten(1) @ down.flatten(1)``.

    ``down`` is ``(r, in, *kernel)`` in the shape that the layer's own operation takes, ``up`` is ``(out, r)``.
    """

    down: Tensor
    up: Tensor
    scaling: float


class AdapterLayer(ABC):
    """A change to one weight, and perhaps its bias: ``W' = W + strength * delta(W)``. An immutable value.

    ``delta`` is the definition. ``factors`` and ``bypass`` are optional faster roads to the same output, and
    ``tests/contracts`` holds every kind to the equality of all of them.

    A kind names its settings beside tensors and alpha in its ``__slots__``, sets them first, then calls ``_hold``.
    """

    kind: ClassVar[str]
    prefers_bypass: ClassVar[bool] = False  # whether its factors, if it has any, take more memory than its tensors
    reads_weight: ClassVar[bool] = False  # whether its bypass takes part of what the layer's own weight computes
    _settings: ClassVar[tuple[str, ...]]  # the settings
    __slots__ = ("alpha", "tensors")

    alpha: float
    tensors: Mapping[str, Tensor]

    @property
    @abstractmethod
    def rank(self) -> int:
        """The inner size ``r``; a kind without one says in its own words what stands for it."""

    @property
    @abstractmethod
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that this layer changes; ``ANY`` (-1) where its tensors do not tell."""

    @abstractmethod
    def delta(self, weight: Tensor) -> Tensor:
        """Return the change of this base weight at strength 1, float32, in its shape and on its device."""

    @abstractmethod
    def _check(self) -> None:
        """Raise ShapeError, saying the shapes, unless the tensors fit each other."""

    def bias_delta(self, bias: Tensor | None = None) -> Tensor | None:
        """Return the change of the bias at strength 1, float32, or None if it stays as it is.

        Args:
            bias: the layer's own bias, if it has one; a few kinds change it in proportion (IA3 as PEFT trains it).
        """
        del bias
        change = self.tensors.get("bias")
        return None if change is None else change.float()

    def factors(self) -> Factors | None:
        """Return exact thin factors of the change, or None if the method has none without the base weight."""
        return None

    def factors_on(self, weight: Tensor) -> Factors | None:
        """Return exact thin factors of the change of this base weight, or None if there are none."""
        del weight
        return self.factors()

    def has_bypass(self, layer: nn.Module) -> bool:
        """Whether :meth:`bypass` can compute this change beside such a layer."""
        del layer
        return False

    def bypass(self, x: Tensor, layer: nn.Module, product: Tensor | None = None) -> Tensor | None:
        """What ``delta`` adds to ``layer(x)``, without building it; None if there is no bypass beside such a layer.

        The change of the bias is not in it.

        Args:
            x: the layer's input.
            layer: the layer, with its base weight.
            product: ``layer(x)`` without the bias, if it is at hand, for methods that turn or scale it.
        """
        del x, layer, product
        return None

    def parts_on(self, weight: Callable[[], Tensor]) -> tuple[AdapterLayer, ...]:
        """Simpler layers whose deltas add up to this one's on this base weight; the layer itself where there are none.

        The change of the bias is not in them.

        Args:
            weight: fetches the base weight.
        """
        del weight
        return (self,)

    def cast(self: Layer, copied: Copied, device: torch.device, dtype: torch.dtype) -> Layer:
        """The same layer for computing beside a weight on this device and in this precision."""
        return self.map(lambda tensor: copied(tensor, device, dtype))

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether this layer changes a weight of the given shape, and its bias a bias that goes with it."""
        own, bias = self.weight_shape, self.tensors.get("bias")
        if ANY not in own:
            return own == tuple(shape)
        if bias is not None and shape[:1] != (len(bias),):
            return False
        return len(shape) >= len(own) and all(size in (ANY, got) for size, got in zip(own, shape, strict=False))

    def check_fits(self, shape: tuple[int, ...]) -> None:
        """Raise ShapeError, saying both shapes, unless this layer changes a weight of the given shape."""
        if not self.fits(shape):
            raise ShapeError(
                f"the adapter changes a weight of shape {self.weight_shape}, but the weight here is {tuple(shape)}."
            )

    def map(self: Layer, change: Callable[[Tensor], Tensor]) -> Layer:
        """Return the same layer with ``change`` applied to each tensor (a cast, a move, a copy)."""
        twin: Layer = object.__new__(type(self))
        for name in self._settings:
            _put(twin, name, getattr(self, name))
        twin._hold(self.alpha, **{name: change(tensor) for name, tensor in self.tensors.items()})
        return twin

    def twin(self: Layer, tensors: Mapping[str, Tensor]) -> Layer:
        """Return the same layer of other tensors, which are not checked: they have the names and shapes of its own."""
        twin: Layer = object.__new__(type(self))
        _put_tensors(twin, MappingProxyType(tensors))
        _put_alpha(twin, self.alpha)
        for name in self._settings:
            _put(twin, name, getattr(self, name))
        return twin

    def _hold(self, alpha: float | None, **tensors: Tensor | None) -> None:
        """Keep the tensors that are there, check them, and keep alpha; None stands for the rank."""
        held = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        _put(self, "tensors", MappingProxyType(held))
        self._check()
        self._check_bias()
        _put(self, "alpha", float(self.rank if alpha is None else alpha))

    def _check_bias(self) -> None:
        bias = self.tensors.get("bias")
        if bias is not None and (bias.ndim != 1 or self.weight_shape[0] not in (ANY, len(bias))):
            raise ShapeError(
                f"the change of the bias has shape {tuple(bias.shape)}; expected ({self.weight_shape[0]},), one number "
                f"for each output of a weight of shape {self.weight_shape}."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What this layer has beside tensors and alpha, by the names of its constructor's arguments."""
        return {name: getattr(self, name) for name in self._settings}

    def __reduce__(self) -> tuple[Any, ...]:
        return _revived, (type(self), self.alpha, dict(self.tensors), self.settings)

    def __init_subclass__(cls) -> None:
        cls._settings = tuple(name for name in cls.__slots__ if name not in AdapterLayer.__slots__)

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(self, name):
            raise AttributeError(f"{type(self).__name__} is immutable; build a new one to change {name!r}.")
        object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        """Equal means bit for bit: the same kind, settings, alpha, names, dtypes and values."""
        return (
            isinstance(other, AdapterLayer)
            and (self.kind, self.alpha) == (other.kind, other.alpha)
            and all(getattr(self, name) == getattr(other, name) for name in self._settings)
            and self.tensors.keys() == other.tensors.keys()
            and all(same(tensor, other.tensors[name]) for name, tensor in self.tensors.items())
        )

    __hash__ = None  # type: ignore[assignment]  # compares by content of tensors

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self.tensors.items())
        settings = "".join(f", {name}={getattr(self, name)!r}" for name in self._settings)
        return f"{type(self).__name__}({shapes}, alpha={self.alpha:g}{settings})"


def _revived(
    cls: type[AdapterLayer], alpha: float, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> AdapterLayer:
    """A layer out of a pickle or a copy."""
    layer = object.__new__(cls)
    for name, value in settings.items():
        _put(layer, name, value)
    _put_tensors(layer, MappingProxyType(tensors))
    _put_alpha(layer, alpha)
    return layer


# A file has a thousand layers: the slots themselves take a value in half the time that setting it by name takes.
_put_tensors: Any = vars(AdapterLayer)["tensors"].__set__
_put_alpha: Any = vars(AdapterLayer)["alpha"].__set__


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same dtype and the same values."""
    if a.dtype != b.dtype:
        return False
    if a.is_floating_point() and a.itemsize == 1:  # torch compares no 8-bit floats
        return torch.equal(a.view(torch.uint8), b.view(torch.uint8))
    return torch.equal(a, b)


def shapes_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the names and shapes of some tensors as one text, for messages."""
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())


def is_matrix_of(matrix: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether two shapes are one matrix ``(out, in * kernel)``, the kernel flattened or not."""
    if len(matrix) < 2 or len(shape) < 2:
        return matrix == shape
    return matrix[0] == shape[0] and math.prod(matrix[1:]) == math.prod(shape[1:])
