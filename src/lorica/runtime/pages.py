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
KEPT = 1 / 16  # of the machine's memory: how much is kept for the next at most
TOO_LARGE = 4  # who needs less than one of so many parts of a piece does not get it


def empty_like(tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU of the same shape, type and order, with any numbers in it."""
    if tensor.nbytes < LARGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty_like(tensor, device="cpu")
    memory = mmap.mmap(-1, tensor.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a system built without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    order = torch.empty_like(tensor, device="meta").stride()  # as it lies in memory, such as channels last
    return torch.frombuffer(memory, dtype=tensor.dtype).as_strided(tensor.shape, order)


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
    """

    def __init__(self, most: int) -> None:
        self.most = most
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
        whole = -(-size // LARGE_PAGE) * LARGE_PAGE
        piece = self._found(size) or Piece(whole, next(self._numbers), mmap.mmap(-1, whole))
        array: Any = np.frombuffer(piece.memory, np.uint8)
        weakref.finalize(array, self._give_back, piece).atexit = False
        return torch.from_numpy(array)[:size]  # which holds the array as long as a view of it lives

    def clear(self) -> None:
        """Let the system have what is kept."""
        self._kept.clear()

    def _found(self, size: int) -> Piece | None:
        """Return the smallest piece that suffices, if it is not far too large; the oldest, which was used most."""
        for piece in sorted(self._kept):
            if size <= piece.size <= TOO_LARGE * size:
                with suppress(ValueError):  # somebody else was quicker
                    self._kept.remove(piece)
                    return piece
        return None

    def _give_back(self, piece: Piece) -> None:
        if self.kept + piece.size <= self.most:
            self._kept.append(piece)


def _machine_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # a system that does not say
        return 0


PAGES = Pages(int(_machine_memory() * KEPT))
