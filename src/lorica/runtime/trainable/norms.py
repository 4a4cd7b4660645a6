"""Norm of a layer's change, kept within a limit, and learning rates of single elements."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lorica.errors import ConfigError, ShapeError


def delta_norm(down: Tensor, up: Tensor, scaling: float) -> Tensor:
    """``|scaling * up @ down|`` (Frobenius) in float64 from two ``(r, r)`` products, without building the change.

    ``|up @ down|^2 = trace(up @ down @ down^T @ up^T)``, the sum of ``(up^T @ up) * (down @ down^T)``.
    """
    thin_down, thin_up = down.double().flatten(1), up.double().flatten(1)
    square = ((thin_up.T @ thin_up) * (thin_down @ thin_down.T)).sum()
    return square.clamp(min=0).sqrt() * abs(scaling)  # rounding may take 0 below it


def shrinking(down: Tensor, up: Tensor, scaling: float, longest: float) -> Tensor:
    """Factor for both ``down`` and ``up`` that brings the norm of the change to ``longest``; 1 if it is shorter.

    ``sqrt(min(1, longest / |delta|))``: each takes half, as in kohya's ``scale_weight_norms`` (max-norm regularisation,
    Srivastava et al. 2014).

    Raises:
        ConfigError: if ``longest`` is not above 0.
    """
    if not longest > 0:
        raise ConfigError(f"scale_weight_norms must be above 0, got {longest}.")
    norm = delta_norm(down, up, scaling)
    return torch.where(norm > longest, longest / norm, torch.ones_like(norm)).sqrt()


def element_rates(flat: Tensor, pieces: Mapping[str, Tensor], rate: Callable[[str], float]) -> Tensor:
    """Learning rate of every element of a flat parameter, relative to that of the parameter.

    Args:
        flat: the parameter, one dimension.
        pieces: its views by name (``Trainable.named_parameters()``); those of other parameters are passed over.
        rate: relative learning rate by name.

    Raises:
        ShapeError: if the views do not cover the parameter exactly once.
    """
    rates, seen = torch.ones_like(flat, requires_grad=False), 0
    storage, end = flat.untyped_storage().data_ptr(), flat.storage_offset() + flat.numel()
    for name, piece in pieces.items():
        start = piece.storage_offset() - flat.storage_offset()
        if piece.untyped_storage().data_ptr() == storage and start >= 0 and piece.storage_offset() < end:
            rates[start : start + piece.numel()] = rate(name)
            seen += piece.numel()
    if seen != flat.numel():
        raise ShapeError(f"the named views hold {seen} of the {flat.numel()} elements of the flat parameter.")
    return rates


@torch.no_grad()
def apply_rates(flat: Tensor, before: Tensor, rates: Tensor) -> None:
    """Scale the optimizer's last step by ``rates``, element by element, in place.

    ``flat = before + rates * (flat - before)``. With AdamW, whose step is a multiple of the learning rate, weight decay
    included, this equals learning rates of their own; elements with rate 1 are untouched.
    """
    flat.copy_(torch.lerp(before, flat, rates))
