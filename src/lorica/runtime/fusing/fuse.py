"""The arithmetic of fusing: ``W' = round(W + sum of strength * delta(W))`` in float32, with one rounding.

Every delta is that of the original weight, so nothing drifts and order does not matter. Biases likewise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lorica.adapters import AdapterLayer

Change = tuple[AdapterLayer, float]  # what is fused into one weight, and how strongly
Changes = Mapping[str, Change]  # by adapter
NUMBERS_AT_ONCE = 1 << 21  # of a half-precision weight are widened to float32 at a time: they stay in cache

# A product of as many rows, or a multiple, is quickest, and the same bits with any number of threads.
ROWS_TOGETHER = 64


def write_weight(weight: Tensor, original: Tensor, changes: Iterable[Change]) -> None:
    """Write ``W + sum of strength * delta(W)`` into ``weight``, every delta that of the original weight.

    Changes with thin factors are stacked along the rank, so that several cost one matrix product. ``original`` may be
    ``weight`` itself, as long as nothing is fused into it.
    """
    original = original.to(weight.device)
    whole: Tensor | None = None
    downs: list[Tensor] = []
    ups: list[Tensor] = []
    for layer, strength in changes:
        factors = layer.factors_on(original) if original.ndim > 1 else None
        if factors is None:
            whole = _wide(original) if whole is None else whole
            whole.add_(layer.delta(original).view(original.shape).to(whole.device), alpha=strength)
        else:
            downs.append(factors.down.to(weight.device, torch.float32).flatten(1))
            ups.append(factors.up.to(weight.device, torch.float32) * (strength * factors.scaling))
    if not downs:
        weight.copy_(original if whole is None else whole)
        return
    down, up = (downs[0], ups[0]) if len(downs) == 1 else (torch.cat(downs), torch.cat(ups, dim=1))
    _write_product(weight, original if whole is None else whole, up, down)


def write_bias(bias: Tensor, original: Tensor, changes: Iterable[Change]) -> None:
    """Write ``b + sum of strength * bias_delta(b)`` into ``bias``."""
    original = original.to(bias.device)
    total = _wide(original)
    for layer, strength in changes:
        change = layer.bias_delta(original)
        if change is not None:
            total.add_(change.to(total.device), alpha=strength)
    bias.copy_(total)


WRITERS = {"weight": write_weight, "bias": write_bias}


def _write_product(weight: Tensor, base: Tensor, up: Tensor, down: Tensor) -> None:
    """Write ``round(base + up . down)``, summed in float32, without a copy of the whole weight in float32."""
    if not weight.is_contiguous() or not base.is_contiguous():  # channels last: its rows are not matrices in memory
        weight.copy_(_wide(base).flatten(1).addmm_(up, down).view(weight.shape))
        return
    rows, sums = weight.flatten(1), base.flatten(1)
    if base is weight and weight.dtype == torch.float32:
        rows.addmm_(up, down)
    elif weight.dtype == base.dtype == torch.float32:
        torch.addmm(sums, up, down, out=rows)
    else:
        step = rows_at_once(*rows.shape) if weight.device.type == "cpu" else len(rows)
        buffer = torch.empty_like(rows[:step], dtype=torch.float32)
        for part, was, factors in zip(rows.split(step), sums.split(step), up.split(step), strict=True):
            part.copy_(buffer[: len(part)].copy_(was).addmm_(factors, down))


def rows_at_once(rows: int, columns: int) -> int:
    """How many rows of a matrix are widened at a time: parts that fit in cache, and are about equally large."""
    parts = max(math.ceil(rows * columns / NUMBERS_AT_ONCE), 1)
    return math.ceil(rows / parts / ROWS_TOGETHER) * ROWS_TOGETHER


def _wide(tensor: Tensor) -> Tensor:
    """A copy in float32, its rows one after the other in memory."""
    return tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
