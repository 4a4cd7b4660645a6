"""GLoRA: its formula entry by entry in both layouts, which layout the shapes tell, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lorica.adapters import GLoRA
from lorica.errors import ShapeError
from sample_layers import relative_error

IN, OUT, RANK, KERNEL = 5, 7, 2, (3, 4)
FP32_NOISE = 4e-6  # relative; worst measured 8e-7 over 20 seeds


def parts(*kernel: int) -> list[torch.Tensor]:
    """Return near (in, r), far (r, in), left (out, r) and right (r, in, *kernel)."""
    ones = [1] * len(kernel)
    sizes = [(IN, RANK, *ones), (RANK, IN, *ones), (OUT, RANK, *ones), (RANK, IN, *kernel)]
    return [torch.randn(size) for size in sizes]


def test_delta_is_a_part_of_the_weight_and_a_part_beside_it() -> None:
    near, far, left, right = parts()
    weight = torch.randn(OUT, IN)
    delta = GLoRA(near, far, left, right, alpha=3.0).delta(weight)
    for o in range(OUT):
        for i in range(IN):
            of_weight = sum(
                weight[o, j].item() * near[j, p].item() * far[p, i].item() for j in range(IN) for p in range(RANK)
            )
            beside = sum(left[o, p].item() * right[p, i].item() for p in range(RANK))
            expected = pytest.approx(1.5 * (of_weight + beside), rel=FP32_NOISE, abs=FP32_NOISE)
            assert delta[o, i].item() == expected


def test_a_convolution_mixes_its_inputs_at_each_point_of_the_kernel() -> None:
    near, far, left, right = parts(*KERNEL)
    weight = torch.randn(OUT, IN, *KERNEL)
    delta = GLoRA(near, far, left, right).delta(weight)
    for o, i, h, w in [(0, 0, 0, 0), (6, 4, 2, 3), (3, 1, 1, 2)]:
        of_weight = sum(
            weight[o, j, h, w].item() * near[j, p, 0, 0].item() * far[p, i, 0, 0].item()
            for j in range(IN)
            for p in range(RANK)
        )
        beside = sum(left[o, p, 0, 0].item() * right[p, i, h, w].item() for p in range(RANK))
        assert delta[o, i, h, w].item() == pytest.approx(of_weight + beside, rel=FP32_NOISE, abs=FP32_NOISE)


def test_a_core_stands_between_the_matrices_beside_the_weight() -> None:
    near, far, left, _ = parts(1, 1)
    right, mid = torch.randn(RANK, IN, 1, 1), torch.randn(RANK, RANK, *KERNEL)
    weight = torch.randn(OUT, IN, *KERNEL)
    layer = GLoRA(near, far, left, right, mid=mid)
    assert layer.weight_shape == (OUT, IN, *KERNEL)
    beside = layer.delta(weight) - GLoRA(near, far, torch.zeros_like(left), right, mid=mid).delta(weight)
    for o, i, h, w in [(0, 0, 0, 0), (6, 4, 2, 3), (3, 1, 1, 2)]:
        expected = sum(
            left[o, p, 0, 0].item() * mid[p, q, h, w].item() * right[q, i, 0, 0].item()
            for p in range(RANK)
            for q in range(RANK)
        )
        assert beside[o, i, h, w].item() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("kernel", [(), KERNEL])
def test_the_old_layout_means_the_same_with_the_names_exchanged(kernel: tuple[int, ...]) -> None:
    near, far, left, right = parts(*kernel)
    new, old = GLoRA(near, far, left, right, alpha=1.0), GLoRA(far, near, right, left, alpha=1.0)
    weight = torch.randn(OUT, IN, *kernel)
    assert (new.old, old.old) == (False, True)
    assert (new.rank, old.rank) == (RANK, RANK)
    assert new.weight_shape == old.weight_shape == (OUT, IN, *kernel)
    assert torch.equal(old.delta(weight), new.delta(weight))
    assert list(old.tensors) == ["a1", "a2", "b1", "b2"]
    assert torch.equal(old.tensors["b1"], right)
    assert old != new


def test_for_a_square_weight_the_smaller_rank_tells_the_layout() -> None:
    near, far, left, right = (torch.randn(size) for size in [(5, 2), (2, 5), (5, 2), (2, 5)])
    assert not GLoRA(near, far, left, right).old
    assert GLoRA(far, near, right, left).old
    square = [torch.randn(5, 5) for _ in range(4)]
    assert not GLoRA(*square).old
    assert GLoRA(*square, old=True).old
    assert GLoRA(*square, old=True).map(torch.clone).old
    weight = torch.randn(5, 5)
    a1, a2, b1, b2 = square
    assert relative_error(GLoRA(*square, old=True).delta(weight), weight @ a2 @ a1 + b2 @ b1) < FP32_NOISE


def test_delta_is_in_proportion_to_the_base_weight() -> None:
    near, far, left, right = parts()
    layer, weight = GLoRA(near, far, torch.zeros_like(left), right), torch.randn(OUT, IN)
    assert relative_error(layer.delta(3 * weight), 3 * layer.delta(weight)) < FP32_NOISE


def test_factors_need_the_weight_and_hold_a_row_for_each_point_of_the_kernel() -> None:
    layer = GLoRA(torch.randn(20, 1), torch.randn(1, 20), torch.randn(30, 1), torch.randn(1, 20), alpha=2.0)
    assert layer.factors() is None
    factors = layer.factors_on(torch.randn(30, 20))
    assert factors is not None
    assert (factors.down.shape, factors.up.shape, factors.scaling) == ((2, 20), (30, 2), 2.0)
    wide = GLoRA(
        torch.randn(20, 1, 1, 1), torch.randn(1, 20, 1, 1), torch.randn(30, 1, 1, 1), torch.randn(1, 20, *KERNEL)
    )
    factors = wide.factors_on(torch.randn(30, 20, *KERNEL))
    assert factors is not None
    assert factors.down.shape == (13, 20, *KERNEL)
    kernels = [(20, 3, 1, 1), (3, 20, 1, 1), (30, 3, 1, 1), (3, 20, *KERNEL)]
    of_rank_3 = GLoRA(*(torch.randn(size) for size in kernels))
    assert of_rank_3.factors_on(torch.randn(30, 20, *KERNEL)) is None  # 39 * (30 + 240) > 30 * 240
    assert GLoRA(*parts()).factors_on(torch.randn(OUT, IN)) is None  # 4 * (7 + 5) > 7 * 5


def test_grouped_convolutions_have_no_bypass() -> None:
    layer = GLoRA(*(torch.randn(size) for size in [(4, 2, 1), (2, 4, 1), (10, 2, 1), (2, 4, 3)]))
    assert layer.bypass(torch.randn(2, 8, 9), nn.Conv1d(8, 10, 3, groups=2)) is None


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ([(5, 2), (3, 5), (7, 2), (2, 5)], {}),
        ([(5, 2), (2, 5), (7, 3), (2, 5)], {}),
        ([(5, 2), (2, 5), (7, 2), (2, 6)], {}),
        ([(5, 2), (2, 5, 1, 1), (7, 2), (2, 5)], {}),
        ([(5, 0), (0, 5), (7, 0), (0, 5)], {}),
        ([(5, 2, 3), (2, 5, 1), (7, 2, 1), (2, 5, 3)], {}),
        ([(5, 2), (2, 5), (7, 2), (2, 5)], {"old": True}),
        ([(5, 2, 1), (2, 5, 1), (7, 2, 1), (2, 5, 1)], {"mid": torch.zeros(3, 2, 3)}),
        ([(5, 2, 1), (2, 5, 1), (7, 2, 1), (2, 5, 3)], {"mid": torch.zeros(2, 2, 3)}),
        ([(5, 2, 1), (2, 5, 1), (7, 2, 1), (2, 5, 1)], {"mid": torch.zeros(2, 2)}),
    ],
)
def test_parts_that_do_not_fit_are_refused(sizes: list[tuple[int, ...]], options: dict) -> None:
    with pytest.raises(ShapeError, match=r"the parts of GLoRA do not fit each other: expected a1 .*, got a1 \("):
        GLoRA(*(torch.zeros(size) for size in sizes), **options)
