"""Rotations from skew-symmetric matrices, always as ``R - I``, so that a small turn loses no digits."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def skew(blocks: Tensor) -> Tensor:
    """Return ``B - B^T`` of each square block, in float32."""
    blocks = blocks.float()
    return blocks - blocks.transpose(-1, -2)


def limited(q: Tensor, limit: float) -> Tensor:
    """Return ``q`` made at most ``limit`` long, all blocks together (Frobenius); a limit of 0 stands for none.

    The 1e-8 is LyCORIS' and kohya's, and part of their formula.
    """
    if not limit > 0:
        return q
    length = torch.linalg.vector_norm(q) + 1e-8
    return torch.where(length > limit, q * (limit / length), q)


def cayley(q: Tensor) -> Tensor:
    """Return ``(I + Q) (I - Q)^-1 - I = 2 Q (I - Q)^-1`` for each block."""
    one = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
    return torch.linalg.solve(one - q, 2 * q, left=False)


def neumann(q: Tensor, terms: int) -> Tensor:
    """Return ``2 Q + 2 Q^2 + ... + Q^n - I + I``: the Cayley transform's series, cut off and without its ``I``.

    ``n`` is ``terms - 1``, and 3 for 3 terms; the last power counts once. This is the series that PEFT and OneTrainer
    train with: where ``Q`` is not small it is far from a rotation, and that is what the adapter was trained as.
    """
    last = max(terms - 1, 3)
    total, power = torch.zeros_like(q), q
    for exponent in range(1, last + 1):
        total = total + power * (1 if exponent == last else 2)
        power = power @ q
    return total


def block_size(numbers: int) -> int | None:
    """Return ``b`` if ``b * (b - 1) / 2`` is the count of numbers above a diagonal, else None."""
    size = (1 + math.isqrt(1 + 8 * numbers)) // 2
    return size if size > 1 and size * (size - 1) // 2 == numbers else None


def skew_of_vectors(vectors: Tensor) -> Tensor:
    """Return the skew-symmetric blocks ``(n, b, b)`` whose upper triangles, row by row, are ``vectors``, in float32."""
    size = block_size(vectors.shape[1]) or 1
    upper = torch.zeros(len(vectors), size, size, dtype=torch.float32, device=vectors.device)
    rows, columns = torch.triu_indices(size, size, 1, device=vectors.device)
    upper[:, rows, columns] = vectors.float()
    return upper - upper.transpose(1, 2)


def turn(y: Tensor, blocks: Tensor) -> Tensor:
    """Return each block of the last axis of ``y`` as a row times its matrix: ``y_k @ blocks_k``.

    Shapes: ``y (*, n * b)``, ``blocks (n, b, b)``.
    """
    rows = y.unflatten(-1, (len(blocks), -1))
    return torch.einsum("...kn,knm->...km", rows, blocks.to(y.dtype)).flatten(-2)


def butterfly(y: Tensor, stages: Tensor) -> Tensor:
    """Change of ``y`` by the stages of a butterfly: stage ``i`` mixes across ``2^i * b`` neighbours.

    Shapes: ``y (*, n * b)``, ``stages (m, n, b, b)``, each block ``R - I`` and acting on columns (Liu et al. 2023,
    arXiv:2311.06243).
    """
    added = torch.zeros_like(y)
    for index, blocks in enumerate(stages):
        reach = 2**index * blocks.shape[-1] // 2
        near = (y + added).unflatten(-1, (-1, 2, reach)).transpose(-1, -2).flatten(-3)
        turned = turn(near, blocks.transpose(-1, -2))
        added = added + turned.unflatten(-1, (-1, reach, 2)).transpose(-1, -2).flatten(-3)
    return added
