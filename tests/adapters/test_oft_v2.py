"""OFTv2: its truncated series entry by entry, the two sides of a convolution, sharing, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lorica.adapters import ANY, OFTv2
from lorica.errors import ShapeError
from sample_layers import relative_error

OUT, BLOCKS, SIZE = 7, 2, 4
IN, NUMBERS = BLOCKS * SIZE, SIZE * (SIZE - 1) // 2
FP32_NOISE = 2e-6  # relative; worst measured 3e-7 over 20 seeds


def skewed(vector: Tensor) -> Tensor:
    """The skew-symmetric matrix whose upper triangle, row by row, is the vector."""
    result, numbers = torch.zeros(SIZE, SIZE, dtype=torch.float64), iter(vector.tolist())
    for row in range(SIZE):
        for column in range(row + 1, SIZE):
            result[row, column] = next(numbers)
            result[column, row] = -result[row, column]
    return result


def series(q: Tensor) -> Tensor:
    one = torch.eye(SIZE, dtype=torch.float64)
    return one + 2 * q + 2 * q @ q + 2 * q @ q @ q + q @ q @ q @ q


def applied(weight: Tensor, blocks: list[Tensor]) -> Tensor:
    """W R^T by blocks of inputs, entry by entry."""
    result = torch.zeros_like(weight, dtype=torch.float64)
    for k, r in enumerate(blocks):
        for c in range(SIZE):
            for b in range(SIZE):
                result[:, k * SIZE + c] += weight[:, k * SIZE + b].double() * r[c, b]
    return result


def test_a_linear_sees_its_input_turned_by_the_series_of_five_terms() -> None:
    vectors, weight = torch.randn(BLOCKS, NUMBERS) / 2, torch.randn(OUT, IN)
    layer = OFTv2(vectors)
    blocks = [series(skewed(vector)) for vector in vectors]
    assert relative_error(layer.delta(weight).double(), applied(weight, blocks) - weight) < FP32_NOISE
    x = torch.randn(3, IN)
    turned = x.double() @ torch.block_diag(*blocks)
    after = x @ (weight + layer.delta(weight)).T
    assert relative_error(after.double(), turned @ weight.double().T) < FP32_NOISE


def test_the_series_is_not_the_rotation_that_it_stands_for() -> None:
    """What was trained with the series must run with the series: with a large Q the two are far apart."""
    vectors, weight = torch.randn(BLOCKS, NUMBERS), torch.randn(OUT, IN)
    as_trained = OFTv2(vectors).delta(weight)
    exact = OFTv2(-vectors, terms=None).delta(weight)  # PEFT's exact form has the other sign
    assert relative_error(as_trained, exact) > 0.5
    small = vectors / 100
    assert relative_error(OFTv2(small).delta(weight), OFTv2(-small, terms=None).delta(weight)) < 1e-3


def test_without_a_series_it_is_pefts_cayley_transform() -> None:
    vectors, weight = torch.randn(BLOCKS, NUMBERS), torch.randn(OUT, IN)
    one = torch.eye(SIZE, dtype=torch.float64)
    blocks = [(one - skewed(vector)) @ torch.linalg.inv(one + skewed(vector)) for vector in vectors]
    delta = OFTv2(vectors, terms=None).delta(weight)
    assert relative_error(delta.double(), applied(weight, blocks) - weight) < FP32_NOISE


@pytest.mark.parametrize(("terms", "last"), [(3, 3), (4, 3), (5, 4), (7, 6)])
def test_more_terms_are_higher_powers_of_which_the_last_counts_once(terms: int, last: int) -> None:
    vectors, weight = torch.randn(BLOCKS, NUMBERS) / 3, torch.randn(OUT, IN)
    blocks: list[Tensor] = []
    for vector in vectors:
        q = skewed(vector)
        powers = [torch.linalg.matrix_power(q, n) * (1 if n == last else 2) for n in range(1, last + 1)]
        blocks.append(torch.eye(SIZE, dtype=torch.float64) + sum(powers))
    delta = OFTv2(vectors, terms=terms).delta(weight)
    assert relative_error(delta.double(), applied(weight, blocks) - weight) < FP32_NOISE


def test_scaled_vectors_count_divided_by_twice_the_root_of_the_size_less_one() -> None:
    vectors, weight = torch.randn(BLOCKS, NUMBERS), torch.randn(OUT, IN)
    scaled = OFTv2(vectors, scaled=True).delta(weight)
    assert relative_error(scaled, OFTv2(vectors / (2 * math.sqrt(SIZE - 1))).delta(weight)) < FP32_NOISE


def test_a_shared_block_turns_all_inputs_alike() -> None:
    vectors, weight = torch.randn(1, NUMBERS), torch.randn(OUT, 3 * SIZE)
    shared = OFTv2(vectors, in_features=3 * SIZE, shared=True)
    assert torch.equal(shared.delta(weight), OFTv2(vectors.repeat(3, 1)).delta(weight))
    assert shared.weight_shape == (ANY, 3 * SIZE)


def test_a_convolution_flattens_its_inputs_and_turns_as_its_trainer_did() -> None:
    vectors, weight = torch.randn(BLOCKS, NUMBERS) / 2, torch.randn(OUT, 2, 2, 2)
    blocks = [series(skewed(vector)) for vector in vectors]
    flat = weight.flatten(1)
    like_linear = applied(flat, blocks) - flat
    of_kernel = applied(flat, [block.T for block in blocks]) - flat
    peft = OFTv2(vectors, turns_kernel=False).delta(weight)
    one_trainer = OFTv2(vectors).delta(weight)
    assert relative_error(peft.double().flatten(1), like_linear) < FP32_NOISE
    assert relative_error(one_trainer.double().flatten(1), of_kernel) < FP32_NOISE
    assert OFTv2(vectors) != OFTv2(vectors, turns_kernel=False)


def test_only_the_inputs_are_known() -> None:
    layer = OFTv2(torch.randn(BLOCKS, NUMBERS))
    assert (layer.weight_shape, layer.rank) == ((ANY, IN), SIZE)
    assert all(layer.fits(shape) for shape in [(9, IN), (9, 2, 2, 2), (1, 4, 2)])
    assert not layer.fits((IN, 9))
    assert not layer.fits((IN,))
    biased = OFTv2(torch.randn(BLOCKS, NUMBERS), bias=torch.randn(OUT))
    assert biased.fits((OUT, IN))
    assert not biased.fits((OUT + 1, IN))


def test_other_layers_than_a_linear_have_no_bypass() -> None:
    assert OFTv2(torch.randn(BLOCKS, NUMBERS)).bypass(torch.randn(1, IN, 3), nn.Conv1d(IN, OUT, 1)) is None


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 5), {}, r"\(2, 5\); expected \(n, b"),
        ((2, 0), {}, "expected"),
        ((6,), {}, "expected"),
        ((0, 6), {}, "expected"),
        ((2, 6), {"in_features": 12}, "2 blocks of 4 from vectors .* do not fill 12"),
        ((1, 6), {"in_features": 8}, "if one block is shared"),
        ((1, 6), {"in_features": 10, "shared": True}, "do not fill 10"),
        ((2, 6), {"in_features": 8, "shared": True}, "a shared block is one vector"),
        ((2, 6), {"terms": 2}, "3 terms or more, got 2"),
    ],
)
def test_vectors_that_do_not_fill_the_inputs_are_refused(shape: tuple[int, ...], options: dict, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        OFTv2(torch.zeros(shape), **options)
