"""What adapters add to a layer's output where the strength of each differs from point to point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from lorica.runtime.bank.products import along, is_channels_second
from lorica.runtime.bank.roads import change_with_rows
from lorica.runtime.bank.stack import Stack
from lorica.runtime.bank.thin import Thin
from lorica.runtime.pipeline.batch import for_batch

Factors = Mapping[str, Tensor]  # adapter to what its strength is multiplied by, to be spread over the output


def change_within(part: Thin | Stack, layer: nn.Module, x: Tensor, y: Tensor, factors: Factors) -> Tensor:
    """Return ``y`` with what a part of a bank adds, each adapter's strength multiplied by its factor.

    Args:
        part: factors, changes of the weight or changes of the bias.
        layer: what it serves.
        x: the layer's input.
        y: the layer's output.
        factors: those not named act at their strength everywhere.
    """
    return _thin(part, layer, x, y, factors) if isinstance(part, Thin) else _stack(part, layer, x, y, factors)


def _thin(part: Thin, layer: nn.Module, x: Tensor, y: Tensor, factors: Factors) -> Tensor:
    window = part.window()
    if window is None:
        return y
    last = not is_channels_second(layer)
    rows = for_batch(window.strength, len(x), part.now.guidance)
    strength = cast("Tensor", along(rows, y.ndim, last=last))  # (1 or b, *ones, R), or (1 or b, R, *ones)
    shape = torch.broadcast_shapes(strength.shape, *(factor.shape for factor in factors.values()))
    field = strength.expand(shape).clone()
    for name, factor in factors.items():
        slot = part.slots.get(name)
        if slot is not None and window.first <= slot.start < window.first + len(window.down):
            field.narrow(-1 if last else 1, slot.start - window.first, slot.stop - slot.start).mul_(factor)
    return change_with_rows(layer, x, y, window.down, window.up, field)


def _stack(part: Stack, layer: nn.Module, x: Tensor, y: Tensor, factors: Factors) -> Tensor:
    for name, strength, change in part.each(layer, x, y):
        scale = along(strength, y.ndim, last=not is_channels_second(layer))
        y = y + (change * (scale * factors[name] if name in factors else scale)).to(y.dtype)
    return y
