"""First values of factors. All leave the model as it is: ``up`` is 0, or the product is subtracted again (PiSSA)."""

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

    def layer(self, alpha: float) -> LoRA:
        """The values as a LoRA, whose ``up`` has ones after ``(out, r)`` for the kernel."""
        return LoRA(self.down, self.up.reshape(*self.up.shape, *[1] * (self.down.ndim - 2)), alpha)


def gaussian(shape: Sequence[int], rank: int, generator: torch.Generator) -> Initial:
    """``down`` from N(0, 1 / r), ``up`` 0 (Hu et al. 2021, arXiv:2106.09685, section 4.1).

    Args:
        shape: that of the weight, ``(out, in, *kernel)``.
        rank: the inner size ``r``.
        generator: source of the random numbers.
    """
    return Initial(torch.randn(rank, *shape[1:], generator=generator) / math.sqrt(rank), _nothing(shape, rank))


def zero(shape: Sequence[int], rank: int, generator: torch.Generator) -> Initial:
    """``down`` uniform in ``+-1 / sqrt(n)``, ``n`` the inputs of one output; ``up`` 0.

    The first values of PEFT and kohya (He et al. 2015, arXiv:1502.01852, with slope sqrt(5)). Two factors of 0 would
    never learn, as the gradient of each is a multiple of the other.
    """
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return Initial((torch.rand(rank, *shape[1:], generator=generator) * 2 - 1) * bound, _nothing(shape, rank))


def orthogonal(shape: Sequence[int], rank: int, generator: torch.Generator) -> Initial:
    """Rows of ``down`` at right angles, each ``sqrt(n / r)`` long like those of :func:`gaussian`; ``up`` 0.

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
    """The weight's own principal part: ``scaling * up @ down`` is ``U_r S_r V_r^T`` of its singular values.

    ``up = U_r sqrt(S_r / scaling)``, ``down = sqrt(S_r / scaling) V_r^T`` (Meng et al. 2024, arXiv:2404.02948, eq. 2
    and 3). The layer must not have that part twice, so the change is counted from these factors (:func:`as_plain`).

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


def as_plain(down: Tensor, up: Tensor, down0: Tensor, up0: Tensor, scaling: float) -> LoRA:
    """A change that is counted from first values, as a LoRA of twice the rank for the original base, exact.

    ``scaling * (up @ down - up0 @ down0) = scaling * [up, -up0] @ [down; down0]``.

    Args:
        down: trained, ``(r, in, *kernel)``.
        up: trained, ``(out, r)``.
        down0: its first values.
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
    return both.layer(scaling * len(both.down))


def _nothing(shape: Sequence[int], rank: int) -> Tensor:
    return torch.zeros(shape[0], rank)
