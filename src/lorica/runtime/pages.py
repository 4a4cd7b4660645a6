"""Memory for large tensors that live for a while.

The system hands out and takes back memory page by page, 4 kB each, at a fraction of a microsecond a page: for whole
weights that costs about as much as writing the numbers. In large pages (2 MB, on Linux) it costs next to nothing.
"""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

LARGE_PAGE = 1 << 21  # bytes; what is smaller gains nothing


def empty_like(tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU of the same shape, type and order, with any numbers in it."""
    if tensor.nbytes < LARGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty_like(tensor, device="cpu")
    memory = mmap.mmap(-1, tensor.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a system built without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    order = torch.empty_like(tensor, device="meta").stride()  # as it lies in memory, such as channels last
    return torch.frombuffer(memory, dtype=tensor.dtype).as_strided(tensor.shape, order)
