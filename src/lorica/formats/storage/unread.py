"""Tensors that have not been read: they know their dtype and shape, and fetch their numbers when something asks.

Readers of formats look at names and shapes, and build layers whose constructors look at shapes. So a file of hundreds
of megabytes can be understood in milliseconds, by the same code that reads it, and without torch, whose import alone
takes longer than all the rest. What needs numbers gets them: one number from :meth:`Unread.item`, many as a numpy array
from :meth:`Unread.array`, and everything else from the torch tensor that this stands for.
"""

from __future__ import annotations

from math import prod
from struct import unpack_from
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lorica.formats.storage.header import SIZES, TORCH_NAMES, Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from mmap import mmap

    from numpy.typing import NDArray
    from torch import Tensor

_NUMPY = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_STRUCT = {"F64": "<d", "F32": "<f", "F16": "<e"}  # of the numbers that an alpha is stored in
_HALF_BIAS = np.float32(2.0**112)  # between the exponents of float16 and float32
_HALF_LIMIT = 65536.0  # what no float16 reaches: so large seems one whose bits say that it is infinite or undefined
_HALF_SHIFT = 13  # between the places of the bits of float16 and float32
_HALF_BITS = ~np.int32(0x70001FFF)  # those that are a float16's own when its sign is repeated and all are shifted


class Unread:
    """A tensor of a mapped file, in place of its numbers.

    Args:
        content: the mapped file.
        entry: the tensor's dtype, shape and place in it.
    """

    __slots__ = ("_content", "_entry", "_tensor", "ndim", "shape", "stored_dtype")

    shape: tuple[int, ...]
    ndim: int
    stored_dtype: str  # as the header names it, such as ``F16``

    def __init__(self, content: mmap | bytes, entry: Entry) -> None:
        self._content = content
        self._entry = entry
        self._tensor: Tensor | None = None
        self.shape, self.stored_dtype = entry.shape, entry.dtype
        self.ndim = len(entry.shape)

    def numel(self) -> int:
        """Return the number of elements."""
        return prod(self.shape)

    def element_size(self) -> int:
        """Return the bytes of one element."""
        return SIZES[self.stored_dtype]

    def is_floating_point(self) -> bool:
        """Whether the numbers are floating-point."""
        return "F" in self.stored_dtype

    def is_complex(self) -> bool:
        """Whether the numbers are complex; a safetensors file holds none."""
        return False

    def item(self) -> float:
        """Return the only number of a tensor of one element."""
        if self.shape and self.numel() != 1:
            raise ValueError(f"a tensor of shape {self.shape} is not one number.")
        if self._entry.dtype not in _NUMPY and self._entry.dtype != "BF16":
            return self.tensor.item()
        if self._entry.dtype in _STRUCT:
            return float(unpack_from(_STRUCT[self._entry.dtype], self._content, self._entry.start)[0])
        return float(self.array().reshape(-1)[0])

    def array(self, room: NDArray[np.float32] | None = None) -> NDArray[Any]:
        """Return the numbers as a numpy array: float32 for 16-bit floats, the stored dtype for all others.

        Args:
            room: memory of float32 numbers in which those of 16-bit floats are put if they are not more: to ask the
                system for fresh memory takes longer than to convert what is put into it.
        """
        if self._entry.dtype in _WIDENED:
            own = np.empty(self.numel(), np.float32) if room is None or room.size < self.numel() else room
            return _WIDENED[self._entry.dtype](self._bits("<i2"), own[: self.numel()].reshape(self.shape))
        if self._entry.dtype not in _NUMPY:
            return self.tensor.float().numpy()
        return self._bits(_NUMPY[self._entry.dtype])

    def flatten(self, start: int = 0) -> Unread:
        """Return the same numbers with all dimensions from ``start`` on as one."""
        return self._as((*self.shape[:start], prod(self.shape[start:])), self._entry.start)

    def reshape(self, *shape: int) -> Unread | Tensor:
        """Return the same numbers in another shape."""
        if prod(shape) != self.numel() or min(shape, default=0) < 0:
            return self.tensor.reshape(*shape)
        return self._as(shape, self._entry.start)

    def __len__(self) -> int:
        return self.shape[0] if self.shape else len(self.tensor)

    def __getitem__(self, index: Any) -> Any:
        """Return rows as another unread tensor, one element as a number, anything else as a torch tensor."""
        if isinstance(index, tuple) and all(isinstance(place, int) for place in index) and len(index) == self.ndim:
            return self.array()[index]
        if isinstance(index, slice) and index.step in (None, 1) and self.ndim:
            start, stop, _ = index.indices(self.shape[0])
            rows = max(stop - start, 0)
            row = prod(self.shape[1:]) * self.element_size()
            return self._as((rows, *self.shape[1:]), self._entry.start + start * row)
        return self.tensor[index]

    @property
    def tensor(self) -> Tensor:
        """The torch tensor that this stands for: a private view of the file."""
        if self._tensor is None:
            self._tensor = view(self._content, self._entry)
        return self._tensor

    def __getattr__(self, name: str) -> Any:
        """Do as the tensor does: what is not answered above needs its numbers."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.tensor, name)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Take part in functions of torch, as the tensor that this stands for."""
        del types
        return function(*_read(args), **{name: _read([value])[0] for name, value in (kwargs or {}).items()})

    def __repr__(self) -> str:
        return f"Unread({self._entry.dtype}, {self.shape})"

    def _bits(self, dtype: str) -> NDArray[Any]:
        if not self.numel():
            return np.empty(self.shape, dtype)
        return np.frombuffer(self._content, dtype, self.numel(), self._entry.start).reshape(self.shape)

    def _as(self, shape: tuple[int, ...], start: int) -> Unread:
        entry = self._entry
        return Unread(
            self._content, Entry(entry.name, entry.dtype, shape, start, start + prod(shape) * self.element_size())
        )


def view(content: mmap | bytes, entry: Entry) -> Tensor:
    """Return a tensor as a private view of the mapped file: changing it never changes the file."""
    if entry.start < entry.stop and entry.dtype in _NUMPY and entry.start % SIZES[entry.dtype] == 0:
        return torch.from_numpy(np.ndarray(entry.shape, _NUMPY[entry.dtype], content, entry.start))
    dtype: torch.dtype = getattr(torch, TORCH_NAMES[entry.dtype])
    if entry.start == entry.stop:
        return torch.empty(entry.shape, dtype=dtype, device="cpu")
    if entry.start % dtype.itemsize:  # cannot be mapped: copied out
        return torch.frombuffer(bytearray(content[entry.start : entry.stop]), dtype=dtype).view(entry.shape)
    count = (entry.stop - entry.start) // dtype.itemsize
    return torch.frombuffer(content, dtype=dtype, count=count, offset=entry.start).view(entry.shape)


def _from_half(bits: NDArray[Any], numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float16 in the place of some float32: numpy's own cast of this takes three times as long."""
    wide = numbers.view(np.int32)
    np.copyto(wide, bits)
    wide <<= _HALF_SHIFT
    wide &= _HALF_BITS
    numbers *= _HALF_BIAS
    if max(numbers.max(initial=0.0), -numbers.min(initial=0.0)) >= _HALF_LIMIT:
        np.copyto(numbers, bits.view("<f2"))
    return numbers


def _from_bfloat(bits: NDArray[Any], numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return bfloat16, the upper half of float32, in the place of some float32."""
    wide = numbers.view(np.int32)
    np.copyto(wide, bits)
    wide <<= 16
    return numbers


_WIDENED: dict[str, Callable[[NDArray[Any], NDArray[np.float32]], NDArray[np.float32]]] = {
    "F16": _from_half,
    "BF16": _from_bfloat,
}


def _read(values: Sequence[Any]) -> list[Any]:
    """Return the values with real tensors in place of unread ones, also one level down in lists."""
    real: list[Any] = []
    for value in values:
        if isinstance(value, Unread):
            real.append(value.tensor)
        elif isinstance(value, list | tuple):
            real.append([item.tensor if isinstance(item, Unread) else item for item in value])
        else:
            real.append(value)
    return real
