"""Factors on their way into banks: memory for those of many layers in one piece, and all copies at once.

A tensor of its own for each factor costs a call and, when it is large, new pages of memory. So what one load needs is
cut out of few pieces, which may be what an earlier one has left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lorica.adapters import AdapterLayer
from lorica.runtime.pages import PAGES

ALIGNED = 64  # bytes
AT_ONCE = 1 << 18  # numbers that are widened on their way from one half precision to the other; they stay in cache
HALVES = {torch.float16, torch.bfloat16}

Home = tuple[torch.dtype, torch.device]


class Filling:
    """Hands out memory for factors, notes what is to be copied there, and copies it.

    Args:
        expected: how many numbers all layers are likely to need.
    """

    def __init__(self, expected: int = 0) -> None:
        self._expected = expected
        self._pieces: dict[Home, tuple[Tensor, int]] = {}  # and how much of each is taken
        self._into: list[Tensor] = []
        self._from: list[Tensor] = []

    def rows(self, shape: tuple[int, ...], count: int, home: Home, *, spare: bool = False) -> tuple[Tensor, Tensor]:
        """Return ``down`` ``(count, in, *kernel)`` and ``up`` ``(count, out)`` for a weight of this shape.

        On the CPU an ``up`` in half precision lies as files have it, ``(out, count)``, if no rows are spare: to turn it
        around takes longer than all else, and the products give the same bits. In float32 they do not always.
        """
        out, *rest = shape
        size = count * math.prod(rest)
        piece, start = self._taken(size + count * out, home)
        order = (1, count) if home[0] in HALVES and home[1].type == "cpu" and not spare else (out, 1)
        down = piece.as_strided((count, *rest), _strides(rest), start)
        return down, piece.as_strided((count, out), order, start + size)

    def copy(self, into: Tensor, source: Tensor) -> None:
        """Note a copy; nothing is written before :meth:`finish`."""
        self._into.append(into)
        self._from.append(source)

    def finish(self) -> None:
        """Write everything, in the order in which it was noted."""
        into, sources = self._into, self._from
        self._into, self._from = [], []
        if any(_between_halves(*pair) for pair in zip(into, sources, strict=True)):
            for pair in zip(into, sources, strict=True):
                (_widened if _between_halves(*pair) else Tensor.copy_)(*pair)
        elif into:
            torch._foreach_copy_(into, sources)  # pyright: ignore[reportPrivateUsage]  # as torch's optimizers do

    def _taken(self, size: int, home: Home) -> tuple[Tensor, int]:
        """Return a flat piece of memory and where so many numbers begin in it that nobody has."""
        dtype, device = home
        piece, start = self._pieces.get(home) or (None, 0)
        if piece is None or start + size > len(piece):
            count = max(size, self._expected)
            if device.type == "cpu":
                piece, start = PAGES.take(count * dtype.itemsize).view(dtype), 0
            else:
                piece, start = torch.empty(count, dtype=dtype, device=device), 0
        step = ALIGNED // dtype.itemsize
        self._pieces[home] = piece, start + -(-size // step) * step
        return piece, start


def _strides(rest: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a tensor ``(rows, *rest)`` without gaps."""
    strides = [1]
    for size in reversed(rest):
        strides.append(strides[-1] * size)
    return tuple(reversed(strides))


def _between_halves(into: Tensor, source: Tensor) -> bool:
    return into.dtype is not source.dtype and into.dtype in HALVES and source.dtype in HALVES


def _widened(into: Tensor, source: Tensor) -> None:
    """Copy by way of float32, which holds both exactly: torch's own road takes three to five times as long."""
    if source.numel() > AT_ONCE:
        step = max(AT_ONCE * len(source) // source.numel(), 1)
        for to, part in zip(into.split(step), source.split(step), strict=True):
            _widened_at_once(to, part)
    else:
        _widened_at_once(into, source)


def _widened_at_once(into: Tensor, source: Tensor) -> None:
    wide = source.float()
    into.copy_(wide if into.stride() == wide.stride() else wide.to(into.dtype))  # turned around in few bytes


def amount(changes: Iterable[AdapterLayer]) -> int:
    """Return how many numbers the tensors of these have, and what lies between them in a piece of memory."""
    tensors = [tensor for change in changes for tensor in change.tensors.values()]
    return sum(map(Tensor.numel, tensors)) + ALIGNED * len(tensors)
