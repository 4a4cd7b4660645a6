"""The memory that adapters hold on a live model, seen from outside.

A bank is a child module of the layer that it serves, and its name is part of the contract. What is in it is not: so its
tensors are found by walking, and counted by the memory that they lie in.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

import lorica

BANK = "lorica_bank"


def has_bank(layer: nn.Module) -> bool:
    return BANK in dict(layer.named_children())


def served(model: nn.Module) -> list[str]:
    """The paths of the layers that hold a bank."""
    return [path for path, layer in model.named_modules() if has_bank(layer)]


def memory_held(model: nn.Module) -> dict[int, int]:
    """The pieces of memory that the banks of a model hold beside its own tensors: address to bytes."""
    own = {address_of(tensor) for tensor in model.state_dict().values()}
    banks = [getattr(layer, BANK) for layer in model.modules() if has_bank(layer)]
    pieces = {address_of(tensor): tensor.untyped_storage().nbytes() for tensor in _reachable(banks)}
    return {address: size for address, size in pieces.items() if address not in own and size}


def bytes_held(model: nn.Module) -> int:
    return sum(memory_held(model).values())


def bytes_alive() -> int:
    """Bytes of all tensors alive in this process, each piece of memory once; two of these tell what lies between."""
    gc.collect()
    tensors = [value for value in gc.get_objects() if type(value) in (Tensor, nn.Parameter, nn.Buffer)]
    pieces: dict[int, int] = {}
    for tensor in tensors:
        with suppress(RuntimeError, NotImplementedError):  # those that stand for others while torch compiles
            pieces[address_of(tensor)] = tensor.untyped_storage().nbytes()
    return sum(pieces.values())


def bytes_of(adapter: lorica.Adapter, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of an adapter's tensors in a precision, each tensor once where layers share it."""
    tensors = {id(tensor): tensor for _, _, layer in adapter.layers() for tensor in layer.tensors.values()}
    return sum(tensor.numel() * dtype.itemsize for tensor in tensors.values())


def address_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _reachable(root: Any) -> Iterator[Tensor]:
    """The tensors inside containers and objects of our own classes; others, and the adapters as a whole, are passed."""
    known: dict[int, Any] = {}  # which keeps what was seen alive, so that no number is given out twice
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in known or isinstance(value, lorica.Loras):
            continue
        known[id(value)] = value
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += value
        elif type(value).__module__.startswith("lorica."):
            waiting += _attributes(value)


def _attributes(value: Any) -> Iterator[Any]:
    yield from getattr(value, "__dict__", {}).values()
    for kind in type(value).__mro__:
        for slot in getattr(kind, "__slots__", ()):
            if hasattr(value, slot):
                yield getattr(value, slot)
