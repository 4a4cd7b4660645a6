"""Linear algebra on factors: each identity against the matrix that it never builds."""

from __future__ import annotations

import pytest
import torch

from lorica.linalg import (
    is_thin,
    kron_of_products,
    product_of_products,
    rows_times_rows,
    svd_of_product,
    trivial_factors,
)

FP64_NOISE = 1e-13  # relative; worst measured 3e-15 over 50 seeds


def random(*size: int) -> torch.Tensor:
    return torch.randn(size, dtype=torch.float64)


def test_rows_times_rows_is_the_kronecker_product_of_each_row() -> None:
    a, b = random(4, 2), random(4, 3)
    got = rows_times_rows(a, b)
    assert got.shape == (4, 6)
    for n in range(4):
        for p in range(2):
            for q in range(3):
                assert got[n, p * 3 + q] == a[n, p] * b[n, q]


def test_the_element_wise_product_of_two_products() -> None:
    (a, c), (b, d) = (random(7, 2), random(2, 5)), (random(7, 3), random(3, 5))
    up, down = product_of_products((a, c), (b, d))
    assert (up.shape, down.shape) == ((7, 6), (6, 5))
    assert torch.allclose(up @ down, (a @ c) * (b @ d), rtol=FP64_NOISE, atol=FP64_NOISE)


def test_the_kronecker_product_of_two_products() -> None:
    (a, c), (b, d) = (random(2, 1), random(1, 3)), (random(4, 2), random(2, 5))
    up, down = kron_of_products((a, c), (b, d))
    assert (up.shape, down.shape) == ((8, 2), (2, 15))
    assert torch.allclose(up @ down, torch.kron(a @ c, b @ d), rtol=FP64_NOISE, atol=FP64_NOISE)


@pytest.mark.parametrize("size", [(3, 5), (5, 3), (4, 4)])
def test_trivial_factors_are_exact_and_as_thin_as_the_shorter_side(size: tuple[int, int]) -> None:
    matrix = random(*size)
    left, right = trivial_factors(matrix)
    assert left.shape[1] == right.shape[0] == min(size)
    assert torch.equal(left @ right, matrix)


def test_thin_means_fewer_numbers_than_the_matrix() -> None:
    assert is_thin(7, (20, 12))  # 7 * 32 = 224 < 240
    assert not is_thin(8, (20, 12))  # 256
    assert not is_thin(1, (2, 2))  # 4 and 4
    assert is_thin(7, (20, 3, 2, 2))


def test_the_decomposition_of_a_product_is_that_of_the_matrix() -> None:
    up, down = random(9, 3), random(3, 6)
    u, s, vh = svd_of_product(up, down)
    assert (u.shape, s.shape, vh.shape) == ((9, 3), (3,), (3, 6))
    assert torch.allclose(s, torch.linalg.svdvals(up @ down)[:3], rtol=FP64_NOISE, atol=FP64_NOISE)
    assert torch.allclose(u @ torch.diag(s) @ vh, up @ down, rtol=FP64_NOISE, atol=10 * FP64_NOISE)
    assert torch.allclose(u.T @ u, torch.eye(3, dtype=torch.float64), atol=FP64_NOISE)
    assert torch.allclose(vh @ vh.T, torch.eye(3, dtype=torch.float64), atol=FP64_NOISE)


def test_a_truncated_decomposition_is_the_nearest_matrix_of_its_rank() -> None:
    up, down = random(9, 4), random(4, 6)
    u, s, vh = svd_of_product(up, down, rank=2)
    values = torch.linalg.svdvals(up @ down)
    error = torch.linalg.matrix_norm(u @ torch.diag(s) @ vh - up @ down)
    assert torch.isclose(error, values[2:].square().sum().sqrt(), rtol=1e-12)


def test_a_rank_above_a_side_is_cut_to_it() -> None:
    u, s, vh = svd_of_product(random(2, 5), random(5, 6))
    assert (u.shape, s.shape, vh.shape) == ((2, 2), (2,), (2, 6))


def test_half_precision_factors_are_decomposed_in_float64() -> None:
    up, down = random(9, 3).half(), random(3, 6).half()
    u, s, vh = svd_of_product(up, down)
    assert s.dtype == torch.float64
    assert torch.allclose(u @ torch.diag(s) @ vh, up.double() @ down.double(), atol=10 * FP64_NOISE)
