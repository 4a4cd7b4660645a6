"""Factors to start training from. All leave the model as it is: ``up`` is 0, or its product is taken off the base."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lorica.adapters import LoRA
from lorica.errors import ConfigError, ShapeError


class Initial(NamedTuple):
    """First values: ``down`` ``(r, in, *kernel)`` and ``up`` ``(out, r)``, float32."""

    down: Tensor
    up: Tensor


class Truncated(NamedTuple):
    """A layer cut to a rank, and how much was lost: ``|delta - kept| / |delta|``, 0 if there was no change."""

    layer: LoRA
    error: float


def gaussian(shape: Sequence[int], rank: int, generator: torch.Generator) -> Initial:
    """Draw ``down`` from N(0, 1 / r); ``up`` is 0 (Hu et al. 2021, arXiv:2106.09685, section 4.1).

    Args:
        shape: that of the weight, ``(out, in, *kernel)``.
        rank: the inner size ``r``.
        generator: the source.
    """
    return Initial(torch.randn(rank, *shape[1:], generator=generator) / math.sqrt(rank), _nothing(shape, rank))


def zero(shape: Sequence[int], rank: int, generator: torch.Generator) -> Initial:
    """Draw ``down`` evenly from ``+-1 / sqrt(n)``, ``n`` the inputs of one output; ``up`` is 0.

    The start of PEFT and kohya (He et al. 2015, arXiv:1502.01852, with slope sqrt(5)). Two factors of 0 would never
    learn, as the gradient of each is a multiple of the other.
    """
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return Initial((torch.rand(rank, *shape[1:], generator=generator) * 2 - 1) * bound, _nothing(shape, rank))


def orthogonal(shape: Sequence[int], rank: int, generator: torch.Generator) -> Initial:
    """Draw rows of ``down`` at right angles, each ``sqrt(n / r)`` long like those of :func:`gaussian`; ``up`` is 0.

    The rows are a uniformly random frame (Saxe et al. 2014, arXiv:1312.6120; Mezzadri 2007, arXiv:math-ph/0609050).
    With more rows than the ``n`` inputs, the columns are at right angles.
    """
    inputs = math.prod(shape[1:])
    tall = torch.randn(max(rank, inputs), min(rank, inputs), generator=generator, dtype=torch.float64)
    frame, triangle = torch.linalg.qr(tall)
    frame = frame * torch.where(triangle.diagonal() < 0, -1.0, 1.0)  # else the frame is not uniform
    rows = frame.T if rank <= inputs else frame
    length = math.sqrt(inputs / rank) if rank <= inputs else 1.0  # columns of length 1 keep the length of an input
    return Initial((rows * length).float().reshape(rank, *shape[1:]), _nothing(shape, rank))


Start = Callable[[Sequence[int], int, torch.Generator], Initial]
STARTS: dict[str, Start] = {start.__name__: start for start in (gaussian, zero, orthogonal)}


def pissa(weight: Tensor, rank: int, scaling: float = 1.0) -> Initial:
    """Return the weight's own principal part: ``scaling * up @ down`` is ``U_r S_r V_r^T`` of its singular values.

    ``up = U_r sqrt(S_r / scaling)``, ``down = sqrt(S_r / scaling) V_r^T`` (Meng et al. 2024, arXiv:2404.02948, eq. 2
    and 3). While they are trained the layer must not have that part twice: its weight is :func:`residual`, or the
    adapter's change is taken against the first factors, as :func:`as_plain` does.

    Args:
        weight: ``(out, in, *kernel)``.
        rank: the inner size ``r``, at most the smaller side of the weight as a matrix.
        scaling: ``alpha / r`` of the layer.

    Raises:
        ConfigError: if the rank is larger than that.
    """
    matrix = weight.detach().float().flatten(1)
    if rank > min(matrix.shape):
        raise ConfigError(
            f"PiSSA cannot take rank {rank} from a weight of shape {tuple(weight.shape)}: at most {min(matrix.shape)}."
        )
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = (values[:rank] / scaling).sqrt()
    return Initial((root[:, None] * right[:rank]).reshape(rank, *weight.shape[1:]), left[:, :rank] * root)


def residual(weight: Tensor, initial: Initial, scaling: float) -> Tensor:
    """Return ``weight - scaling * up @ down`` in float32: the base that PiSSA trains on."""
    return weight.detach().float() - LoRA(*_as_layer(initial), scaling * initial.up.shape[1]).delta(weight)


def as_plain(down: Tensor, up: Tensor, down0: Tensor, up0: Tensor, scaling: float) -> LoRA:
    """Return what training changed as a LoRA of twice the rank for the original base, exact.

    ``scaling * (up @ down - up0 @ down0) = scaling * [up, -up0] @ [down; down0]``.

    Args:
        down: trained, ``(r, in, *kernel)``.
        up: trained, ``(out, r)``.
        down0: as it was at the start.
        up0: likewise.
        scaling: ``alpha / r`` while it was trained.

    Raises:
        ShapeError: if the factors differ in shape from the first ones.
    """
    if down.shape != down0.shape or up.shape != up0.shape:
        raise ShapeError(
            f"down {tuple(down.shape)} and up {tuple(up.shape)} must be shaped like the factors at the start, "
            f"{tuple(down0.shape)} and {tuple(up0.shape)}."
        )
    both = Initial(torch.cat([down, down0]).detach(), torch.cat([up, -up0], dim=1).detach())
    return LoRA(*_as_layer(both), scaling * len(both.down))


def truncate(layer: LoRA, rank: int) -> Truncated:
    """Return the nearest layer of a lower rank (Eckart and Young 1936), computed from the factors alone.

    With ``up = Q_u R_u`` and ``down^T = Q_d R_d``, the singular values are those of the small ``R_u R_d^T``.
    """
    left, upper = torch.linalg.qr(layer.up.double().flatten(1))
    right, lower = torch.linalg.qr(layer.down.double().flatten(1).T)
    inner_left, values, inner_right = torch.linalg.svd(upper @ lower.T * layer.scaling, full_matrices=False)
    root, total = values[:rank].sqrt(), float(values.norm())
    up = (left @ inner_left[:, :rank] * root).float()
    down = (root[:, None] * (inner_right[:rank] @ right.T)).float().reshape(-1, *layer.down.shape[1:])
    error = float(values[rank:].norm()) / total if total else 0.0
    return Truncated(LoRA(*_as_layer(Initial(down, up))), error)


def _as_layer(initial: Initial) -> Initial:
    """Return the factors in the shapes that a LoRA has: ones after ``(out, r)`` for the kernel."""
    return Initial(initial.down, initial.up.view(*initial.up.shape, *[1] * (initial.down.ndim - 2)))


def _nothing(shape: Sequence[int], rank: int) -> Tensor:
    return torch.zeros(shape[0], rank)
