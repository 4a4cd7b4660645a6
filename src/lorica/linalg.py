"""Linear algebra on matrices that are kept as factors: what is thin stays thin."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]  # (rows, r) and (r, columns), whose product is meant


def rows_times_rows(a: Tensor, b: Tensor) -> Tensor:
    """Return the Khatri-Rao product by rows: row n is ``kron(a[n], b[n])``.

    For ``a (n, p)`` and ``b (n, q)`` the result is ``(n, p * q)``. It makes factors of an element-wise product:
    ``(a @ c) * (b @ d) = rows_times_rows(a, b) @ rows_times_rows(c.T, d.T).T``.
    """
    return (a.unsqueeze(2) * b.unsqueeze(1)).flatten(1)


def product_of_products(first: Pair, second: Pair) -> Pair:
    """Return factors of the element-wise product of two products; the ranks multiply."""
    up = rows_times_rows(first[0], second[0])
    return up, rows_times_rows(first[1].T, second[1].T).T


def kron_of_products(first: Pair, second: Pair) -> Pair:
    """Return factors of the Kronecker product of two products: ``kron(a @ c, b @ d) = kron(a, b) @ kron(c, d)``."""
    return torch.kron(first[0].contiguous(), second[0].contiguous()), torch.kron(
        first[1].contiguous(), second[1].contiguous()
    )


def trivial_factors(matrix: Tensor) -> Pair:
    """Return a matrix as a product with the identity on its shorter side, exact bit for bit."""
    rows, columns = matrix.shape
    one = torch.eye(min(rows, columns), dtype=matrix.dtype, device=matrix.device)
    return (one, matrix) if rows <= columns else (matrix, one)


def is_thin(rank: int, shape: Sequence[int]) -> bool:
    """Whether two factors of a rank hold fewer numbers than the matrix ``(out, in * kernel)`` of a weight."""
    out, columns = shape[0], math.prod(shape[1:])
    return rank * (out + columns) < out * columns


def svd_of_product(up: Tensor, down: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the singular value decomposition of ``up @ down`` without building the product, in float64.

    ``up = Q R`` and ``down.T = P S`` leave the ``(r, r)`` matrix ``R @ S.T``, whose singular values are the product's.

    Args:
        up: ``(out, r)``.
        down: ``(r, columns)``.
        rank: how many of the largest singular values to keep; all ``min(out, r, columns)`` of them by default.

    Returns:
        ``u (out, k)``, ``s (k,)`` from the largest down, ``vh (k, columns)``, with ``u @ diag(s) @ vh = up @ down``.
    """
    left, upper = torch.linalg.qr(up.double())
    right, lower = torch.linalg.qr(down.double().T)
    u, s, vh = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    return left @ u[:, :rank], s[:rank], vh[:rank] @ right.T
