"""Weights that may lie in other memory: then an original stays where it is, and going back to it copies nothing.

A parameter can be pointed at other memory, and all that know the parameter follow: the model, tied layers, optimizers,
compiled code. What knows the memory itself does not: a state dict or a view that somebody holds, an offload hook's own
reference, another process. So it is done only where the parameter alone knows its memory; elsewhere weights are written
in place (decision 0027).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

OWNERS = 2  # of memory that only the parameter knows: the parameter, and the handle through which they are counted
_count: Any = getattr(torch._C, "_storage_Use_Count", None)  # pyright: ignore[reportPrivateUsage]


def memory_for(parameter: nn.Parameter) -> Tensor | None:
    """Memory that a parameter could be pointed at, with any numbers in it; None if it must stay where it is."""
    if not may_move(parameter):
        return None
    with torch.inference_mode(mode=False):  # what is made within could not become a parameter's
        memory = torch.empty_like(parameter.data)
    return memory if memory.stride() == parameter.stride() else None


def may_move(parameter: nn.Parameter) -> bool:
    """Whether a parameter lies in ordinary main memory that nobody else in the process or outside knows."""
    if parameter.device.type != "cpu" or parameter.layout != torch.strided or parameter.is_inference():
        return False
    if _count is None or type(parameter.data) is not Tensor:
        return False
    return _owners(parameter) == OWNERS and not parameter.is_shared() and not parameter.is_pinned()


def write_back(parameter: nn.Parameter, original: Tensor) -> None:
    """Give a parameter the numbers of ``original``, by pointing at it where possible; it is then the parameter's."""
    live = parameter.data
    alike = (live.device, live.dtype, live.stride()) == (original.device, original.dtype, original.stride())
    del live  # it would count as an owner
    if alike and may_move(parameter):
        parameter.data = original
    else:
        parameter.data.copy_(original)


def _owners(parameter: nn.Parameter) -> int:
    return cast("int", _count(parameter.untyped_storage()._cdata))  # pyright: ignore[reportPrivateUsage]
