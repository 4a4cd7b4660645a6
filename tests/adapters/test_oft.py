"""OFT and BOFT: their formulas with loops over blocks, constraint, rescale, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lorica.adapters import ANY, BOFT, OFT
from lorica.adapters.rotation import cayley, skew
from lorica.errors import ShapeError
from sample_layers import relative_error

BLOCKS, SIZE, IN, OUT, KERNEL = 2, 3, 5, 6, (2, 4)
FP32_NOISE = 2e-6  # relative; worst measured 4e-7 over 20 seeds


def rotation(block: Tensor, stretch: float = 1.0) -> Tensor:
    """(I + Q) (I - Q)^-1 in float64, with Q = stretch * (B - B^T)."""
    q = stretch * (block.double() - block.double().T)
    one = torch.eye(len(block), dtype=torch.float64)
    return (one + q) @ torch.linalg.inv(one - q)


def turned(weight: Tensor, blocks: Tensor, stretch: float = 1.0) -> Tensor:
    """Each block of rows of the weight, turned by the transpose of its rotation, entry by entry."""
    result = torch.zeros_like(weight, dtype=torch.float64)
    size = blocks.shape[-1]
    for k, block in enumerate(blocks):
        r = rotation(block, stretch)
        for m in range(size):
            for n in range(size):
                result[k * size + m] += r[n, m] * weight[k * size + n].double()
    return result


@pytest.mark.parametrize("kernel", [(), KERNEL])
def test_each_block_of_outputs_is_turned_by_the_transpose(kernel: tuple[int, ...]) -> None:
    blocks, weight = torch.randn(BLOCKS, SIZE, SIZE), torch.randn(OUT, IN, *kernel)
    delta = OFT(blocks).delta(weight)
    assert relative_error(delta.double(), turned(weight, blocks) - weight) < FP32_NOISE


@pytest.mark.parametrize("kernel", [(), KERNEL])
def test_stored_rotations_turn_as_they_are(kernel: tuple[int, ...]) -> None:
    blocks, weight = torch.randn(BLOCKS, SIZE, SIZE), torch.randn(OUT, IN, *kernel)
    rotations = torch.stack([rotation(block) for block in blocks]).float()
    factor = torch.rand(BLOCKS, SIZE, 1) + 0.5  # LyCORIS before 2.0 multiplied it in, row by row
    expected = torch.zeros_like(weight, dtype=torch.float64)
    for k in range(BLOCKS):
        for m in range(SIZE):
            for n in range(SIZE):
                entry = (factor * rotations)[k, n, m].double()
                expected[k * SIZE + m] += entry * weight[k * SIZE + n].double()
    delta = OFT(rotations=factor * rotations).delta(weight)
    assert relative_error(delta.double(), expected - weight) < FP32_NOISE
    plain = OFT(rotations=rotations, constraint=1e-9).delta(weight)
    assert relative_error(plain.double(), turned(weight, blocks) - weight) < FP32_NOISE


def test_blocks_and_rotations_are_not_mixed() -> None:
    blocks = torch.randn(BLOCKS, SIZE, SIZE)
    with pytest.raises(ShapeError, match="either blocks or rotations"):
        OFT(blocks, rotations=blocks)
    with pytest.raises(ShapeError, match="got neither"):
        OFT()


def test_a_turn_keeps_the_length_of_every_column() -> None:
    weight = torch.randn(OUT, IN)
    after = weight + OFT(torch.randn(BLOCKS, SIZE, SIZE)).delta(weight)
    assert torch.allclose(after.norm(dim=0), weight.norm(dim=0), rtol=1e-5)


def test_a_small_turn_keeps_its_digits() -> None:
    blocks, weight = 1e-6 * torch.randn(BLOCKS, SIZE, SIZE), torch.randn(OUT, IN)
    expected = turned(weight, blocks) - weight.double()
    assert relative_error(OFT(blocks).delta(weight).double(), expected) < 1e-5  # R in float32 less I: 0.1 off


def test_the_constraint_counts_times_the_outputs_and_over_all_blocks_together() -> None:
    blocks, weight = torch.randn(BLOCKS, SIZE, SIZE), torch.randn(OUT, IN)
    length = (blocks - blocks.transpose(1, 2)).norm().item()
    limit = 0.02 * OUT
    assert limit < length
    delta = OFT(blocks, constraint=0.02).delta(weight)
    assert relative_error(delta.double(), turned(weight, blocks, limit / length) - weight) < FP32_NOISE
    loose = OFT(blocks, constraint=10.0)
    assert torch.equal(loose.delta(weight), OFT(blocks).delta(weight))
    assert (loose.constraint, loose.alpha) == (10.0, 10.0)


def test_rescale_multiplies_each_output_after_the_turn() -> None:
    blocks, weight, rescale = torch.randn(BLOCKS, SIZE, SIZE), torch.randn(OUT, IN), torch.rand(OUT, 1) + 0.5
    delta = OFT(blocks, rescale=rescale).delta(weight)
    assert relative_error(delta.double(), rescale * turned(weight, blocks) - weight) < FP32_NOISE


def test_only_the_outputs_are_known() -> None:
    assert OFT(torch.randn(BLOCKS, SIZE, SIZE)).weight_shape == (OUT, ANY)
    assert OFT(torch.randn(BLOCKS, SIZE, SIZE)).rank == SIZE
    assert OFT(torch.randn(BLOCKS, SIZE, SIZE)).fits((OUT, 9, 3, 3))
    assert not OFT(torch.randn(BLOCKS, SIZE, SIZE)).fits((OUT + 1, 9))


def test_where_groups_see_different_inputs_there_is_no_bypass() -> None:
    grouped = nn.Conv2d(4, OUT, 1, groups=2)
    assert OFT(torch.randn(BLOCKS, SIZE, SIZE)).bypass(torch.randn(1, 4, 2, 2), grouped) is None
    assert BOFT(torch.randn(1, BLOCKS + 1, 2, 2)).bypass(torch.randn(1, 4, 2, 2), grouped) is None
    assert OFT(torch.randn(BLOCKS, SIZE, SIZE)).bypass(torch.tensor([1]), nn.Embedding(OUT, 4)) is None


def stage(weight: Tensor, blocks: Tensor, reach: int) -> Tensor:
    """One stage of a butterfly entry by entry: within 2 * reach rows, row (g, k) meets in the order (k, g)."""
    order = [
        start + half * reach + k for start in range(0, len(weight), 2 * reach) for k in range(reach) for half in (0, 1)
    ]
    result, size = torch.zeros_like(weight, dtype=torch.float64), blocks.shape[-1]
    for number, block in enumerate(blocks):
        r, rows = rotation(block), order[number * size : (number + 1) * size]
        for i, row in enumerate(rows):
            for j, other in enumerate(rows):
                result[row] += r[i, j] * weight[other].double()
    return result


@pytest.mark.parametrize(("stages", "count", "size"), [(1, 3, 4), (2, 2, 6), (3, 4, 2), (3, 4, 4)])
def test_the_stages_of_a_butterfly_follow_each_other(stages: int, count: int, size: int) -> None:
    blocks, weight = torch.randn(stages, count, size, size), torch.randn(count * size, IN)
    expected = weight.double()
    for index in range(stages):
        expected = stage(expected, blocks[index], 2**index * size // 2)
    assert relative_error(BOFT(blocks).delta(weight).double(), expected - weight) < FP32_NOISE


def test_boft_limits_all_stages_together_and_rescales_at_the_end() -> None:
    blocks, weight, rescale = torch.randn(2, 2, 6, 6), torch.randn(12, IN), torch.rand(12, 1) + 0.5
    q = blocks - blocks.transpose(2, 3)
    limit = 0.05 * 12
    assert limit < q.norm()
    expected = weight.double()
    for index in range(2):
        expected = stage(expected, blocks[index].double() * limit / q.double().norm(), 2**index * 3)
    delta = BOFT(blocks, constraint=0.05, rescale=rescale).delta(weight)
    assert relative_error(delta.double(), rescale * expected - weight) < FP32_NOISE


def test_the_cayley_transform_is_a_rotation() -> None:
    r = cayley(skew(torch.randn(BLOCKS, SIZE, SIZE))) + torch.eye(SIZE)
    assert torch.allclose(r @ r.transpose(1, 2), torch.eye(SIZE).expand(BLOCKS, SIZE, SIZE), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "shape", "rescale", "message"),
    [
        (OFT, (2, 3, 4), None, r"\(2, 3, 4\); expected \(n, b, b\)"),
        (OFT, (2, 2, 3, 3), None, r"expected \(n, b, b\)"),
        (OFT, (0, 3, 3), None, r"expected \(n, b, b\)"),
        (OFT, (2, 3, 3), (5, 1), r"each of 6 outputs, got blocks \(2, 3, 3\), rescale \(5, 1\)"),
        (OFT, (2, 3, 3), (2, 3), "each of 6 outputs"),
        (BOFT, (2, 3, 3), None, r"expected \(m, n, b, b\)"),
        (BOFT, (2, 2, 4, 3), None, r"expected \(m, n, b, b\)"),
        (BOFT, (1, 2, 3, 3), None, "an even b"),
        (BOFT, (3, 2, 4, 4), None, "3 stages need .* n that 4 divides"),
        (BOFT, (2, 2, 4, 4), (7,), "each of 8 outputs"),
    ],
)
def test_blocks_of_another_shape_are_refused(
    kind: type, shape: tuple[int, ...], rescale: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        kind(torch.zeros(shape), rescale=None if rescale is None else torch.ones(rescale))
