"""Memory for large tensors that live for a while.

The system hands out and takes back memory page by page, 4 kB each, at a fraction of a microsecond a page: for whole
weights that costs about as much as writing the numbers. In large pages (2 MB, on Linux) it costs next to nothing. And
what was handed out once is kept here for a while, within a bound: the next who needs as much gets it as it is.
"""

from __future__ import annotations

import mmap
import os
import weakref
from contextlib import suppress
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

LARGE_PAGE = 1 << 21  # bytes; what is smaller gains nothing
KEPT = 1 / 8  # of the machine's memory: how much is kept for the next at most
KEPT_OF_WEIGHTS = 1 / 4  # where whole weights lay: what is fused again in a while needs as much
KEPT_BY_NOBODY = 1 << 30  # bytes, for the factors of the next model, when one was just detached
TOO_LARGE = 4  # who needs less than one of so many parts of a piece does not get it


class Piece(NamedTuple):
    """A piece of memory.

    Args:
        size: in bytes.
        number: one was handed out before those of higher numbers.
        memory: the bytes.
    """

    size: int
    number: int
    memory: mmap.mmap


class Pages:
    """Pieces of memory that go back here when nobody uses them any more.

    Args:
        most: how many bytes are kept for the next at most.
        large: whether to ask for large pages: good for what nobody had before, and bad for what is small.
    """

    def __init__(self, most: int, *, large: bool = False) -> None:
        self.most, self.large = most, large
        self._most_now = most  # the same, or less since a trim
        self._numbers = count()
        self._kept: list[Piece] = []  # changed in single steps only: threads and the garbage collector give back

    @property
    def kept(self) -> int:
        """How many bytes nobody uses just now."""
        return sum(piece.size for piece in tuple(self._kept))

    def take(self, size: int) -> Tensor:
        """Return so many bytes on the CPU, with any numbers in them. Pages that were never used cost nothing yet."""
        if size < LARGE_PAGE:
            return torch.empty(size, dtype=torch.uint8, device="cpu")
        self._most_now = self.most
        piece = self._found(size) or self._new(size)
        array: Any = np.frombuffer(piece.memory, np.uint8)
        weakref.finalize(array, self._give_back, piece).atexit = False
        return torch.from_numpy(array)[:size]  # which holds the array as long as a view of it lives

    def trim(self, most: int = 0) -> None:
        """Let the system have what is kept, what was used longest ago first, until no more than so many bytes are left.

        What goes back later is kept within the same bound, until somebody takes a piece again.
        """
        self._most_now = min(most, self.most)
        self._shrink()

    def _new(self, size: int) -> Piece:
        unit = mmap.PAGESIZE if self.large else LARGE_PAGE  # the rest of a large page would be there, and unused
        whole = -(-size // unit) * unit
        memory = _mapped(whole)
        if self.large and hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a system built without them
                memory.madvise(mmap.MADV_HUGEPAGE)
        return Piece(whole, next(self._numbers), memory)

    def _found(self, size: int) -> Piece | None:
        """Return the smallest piece that suffices, if it is not far too large; the oldest, which was used most."""
        for piece in sorted(self._kept):
            if size <= piece.size <= TOO_LARGE * size:
                with suppress(ValueError):  # somebody else was quicker
                    self._kept.remove(piece)
                    return piece
        return None

    def _give_back(self, piece: Piece) -> None:
        if piece.size <= self._most_now:
            self._kept.append(piece)
            self._shrink()

    def _shrink(self) -> None:
        while self.kept > self._most_now:
            with suppress(IndexError):  # somebody has just got the last
                self._kept.pop(0)


def _mapped(size: int) -> mmap.mmap:
    """Return memory of this process alone: what a fork of it writes there is not seen here."""
    if hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)  # a system without forks


def _machine_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # a system that does not say
        return 0


PAGES = Pages(int(_machine_memory() * KEPT))
WEIGHTS = Pages(int(_machine_memory() * KEPT_OF_WEIGHTS), large=True)


def empty_like(weight: Tensor) -> Tensor:
    """Return a tensor on the CPU of the same shape, type and order, with any numbers in it."""
    order = torch.empty_like(weight, device="meta").stride()  # as it lies in memory, such as channels last
    return WEIGHTS.take(weight.nbytes).view(weight.dtype).as_strided(weight.shape, order)
