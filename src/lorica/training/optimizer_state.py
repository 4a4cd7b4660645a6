"""What any optimizer remembers, as named tensors for a checkpoint and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lorica.errors import TrainingError

GROUP = "group/"
NUMBERS: dict[str, type] = {"#bool": bool, "#int": int, "#float": float}
State = dict[str, Tensor]


def settings_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the settings of each group as they are now."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def pack(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], first: list[dict[str, Any]]) -> State:
    """Return all that an optimizer remembers: the state of each parameter, and what it changed in its groups.

    Args:
        optimizer: any.
        named: its parameters.
        first: :func:`settings_of` when it was new.

    Raises:
        TrainingError: if it remembers what is neither a tensor nor a number.
    """
    packed: State = {}
    for name, parameter in named.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            _put(packed, f"{name}/{key}", value)
    for number, (group, before) in enumerate(zip(settings_of(optimizer), first, strict=True)):
        for key, value in group.items():
            if key != "lr" and isinstance(value, int | float) and value != before.get(key):
                _put(packed, f"{GROUP}{number}/{key}", value)
    return packed


def unpack(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], packed: Mapping[str, Tensor]) -> None:
    """Put back what :func:`pack` returned."""
    fused = any(bool(group.get("fused")) for group in optimizer.param_groups)
    for name, tensor in packed.items():
        owner, key = name.rsplit("/", 1)
        key, mark, kind = key.partition("#")
        value: Any = NUMBERS[mark + kind](tensor.item()) if mark else tensor.clone()
        if owner.startswith(GROUP):
            optimizer.param_groups[int(owner.removeprefix(GROUP))][key] = value
            continue
        if isinstance(value, Tensor) and (value.ndim or fused):  # counters stay on the CPU unless a kernel reads them
            value = value.to(named[owner].device)
        optimizer.state[named[owner]][key] = value


def _put(packed: State, name: str, value: object) -> None:
    if isinstance(value, Tensor):
        packed[name] = value.detach().clone().contiguous()
    elif isinstance(value, bool | int | float):
        wide = torch.float64 if isinstance(value, float) else torch.int64
        packed[f"{name}#{type(value).__name__}"] = torch.tensor(value, dtype=wide)
    elif value is not None:
        raise TrainingError(
            f"the optimizer remembers {name}, a {type(value).__name__}, which a checkpoint cannot hold; choose another."
        )
