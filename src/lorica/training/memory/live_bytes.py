"""Bytes of the tensors that are alive while code runs, from their shapes alone: nothing is computed or held.

Within :class:`LiveBytes` tensors have shapes, types and a device, but no values (torch's fake tensors, which live on
the meta device), and every storage is counted from the operation that makes it until the last tensor on it is gone. So
one forward and backward pass gives the peak of a real one, saved activations and temporary results alike. Scratch
space inside an operation is not seen, save one: on a CPU the backward pass of a convolution copies its input into the
layout of its weight.
"""

from __future__ import annotations

import copy
import weakref
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Module = TypeVar("Module", bound=nn.Module)


class LiveBytes(TorchDispatchMode):
    """Counter of bytes, active within the ``with`` block: ``now`` and ``peak``."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._shapes = FakeTensorMode(allow_non_fake_inputs=False)
        self._seen: dict[weakref.ref[Any], int] = {}

    def __enter__(self) -> LiveBytes:
        self._shapes.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._shapes.__exit__(*error)

    def like(self, tensor: Tensor) -> Tensor:
        """Tensor of the same shape, type and device without values; it is not counted."""
        return cast("Tensor", self._shapes.from_tensor(tensor))

    def shapes_of(self, module: Module) -> Module:
        """Copy of a network without values; its weights are not counted."""
        tensors = [*module.parameters(), *module.buffers()]
        memo: dict[int, Any] = {}
        for tensor in tensors:
            shape = self.like(tensor)
            is_weight = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(shape, requires_grad=False) if is_weight else shape
        return copy.deepcopy(module, memo)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count its new tensors."""
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given:
                self._count(leaf.untyped_storage())
        if func is torch.ops.aten.convolution_backward.default and args[1].device.type == "cpu":
            self.peak = max(self.peak, self.now + args[1].untyped_storage().nbytes())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = weakref.ref(storage, self._forget)
        if key not in self._seen:
            self._seen[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)

    def _forget(self, key: weakref.ref[Any]) -> None:
        self.now -= self._seen.pop(key, 0)
