"""Weights that may lie in other memory: then an original stays where it is, and going back to it copies nothing.

A parameter can be pointed at other memory, and all that know the parameter follow: the model, tied layers, optimizers,
compiled code. What knows the memory itself does not: a state dict or a view that somebody holds, an offload hook's own
reference, another process. So it is done only where the parameter alone knows its memory; elsewhere weights are written
in place (decision 0027).
"""

from __future__ import annotations

import os
from typing import Any, cast

import torch
from torch import Tensor, nn

OWNERS = 2  # of memory that only the parameter knows: the parameter, and the handle through which they are counted
_count: Any = getattr(torch._C, "_storage_Use_Count", None)  # pyright: ignore[reportPrivateUsage]

SHARE = 4  # at most a quarter of the machine's memory is kept


class SpareMemory:
    """Memory that fused weights have left, kept for the next fuse: fresh pages cost more than the product.

    Attributes:
        size: bytes that are kept.
    """

    def __init__(self) -> None:
        self._kept: dict[object, list[Tensor]] = {}
        self.size = 0

    def take(self, parameter: nn.Parameter) -> Tensor | None:
        """Memory that a parameter could be pointed at, with any numbers in it; None if it must stay where it is."""
        if not may_move(parameter):
            return None
        kept = self._kept.get(_layout(parameter.data))
        if kept:
            memory = kept.pop()
            self.size -= memory.nbytes
            return memory
        with torch.inference_mode(mode=False):  # what is made within could not become a parameter's
            memory = torch.empty_like(parameter.data)
        return memory if memory.stride() == parameter.stride() else None

    def give_back(self, parameter: nn.Parameter, original: Tensor) -> None:
        """Give a parameter the numbers of ``original``, by pointing at it where possible; it is its own then."""
        alike = parameter.device == original.device and _layout(parameter.data) == _layout(original)
        if not (alike and may_move(parameter)):
            parameter.data.copy_(original)
            return
        left, parameter.data = parameter.data, original
        if self.size + left.nbytes <= _memory_of_machine() // SHARE:
            self._kept.setdefault(_layout(left), []).append(left)
            self.size += left.nbytes

    def clear(self) -> None:
        """Give all of it back to the system."""
        self._kept, self.size = {}, 0


def may_move(parameter: nn.Parameter) -> bool:
    """Whether a parameter lies in ordinary main memory that nobody else in the process or outside knows."""
    if parameter.device.type != "cpu" or parameter.layout != torch.strided or parameter.is_inference():
        return False
    if _count is None or type(parameter.data) is not Tensor:
        return False
    return _owners(parameter) == OWNERS and not parameter.is_shared() and not parameter.is_pinned()


def _layout(tensor: Tensor) -> object:
    return tensor.shape, tensor.stride(), tensor.dtype


def _memory_of_machine() -> int:
    """Bytes of main memory; 0 where the system does not tell."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def _owners(parameter: nn.Parameter) -> int:
    return cast("int", _count(parameter.untyped_storage()._cdata))  # pyright: ignore[reportPrivateUsage]
