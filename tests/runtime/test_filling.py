"""Factors are copied into pieces of memory: every number comes where it belongs, and none is rounded twice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorica.runtime import filling
from lorica.runtime.filling import ALIGNED, Filling

CPU = torch.device("cpu")
SHAPES = ((7, 5), (3, 11, 2, 3), (13, 4, 1))
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spare", [False, True])
def test_rows_have_the_shapes_of_factors_and_share_nothing(dtype: torch.dtype, spare: bool) -> None:
    pile = Filling(40)
    rows = [part for shape in SHAPES for part in pile.rows(shape, 6, (dtype, CPU), spare=spare)]
    assert [tuple(part.shape) for part in rows] == [(6, 5), (6, 7), (6, 11, 2, 3), (6, 3), (6, 4, 1), (6, 13)]
    for number, part in enumerate(rows):
        part.fill_(number)
    assert all((part == number).all() for number, part in enumerate(rows))
    assert all(part.data_ptr() % ALIGNED == 0 for part in rows[::2])


def test_different_precisions_lie_in_different_pieces() -> None:
    pile = Filling(1000)
    half, single = (pile.rows((7, 5), 2, (dtype, CPU))[0] for dtype in (torch.float16, torch.float32))
    assert (half.dtype, single.dtype) == (torch.float16, torch.float32)
    half.fill_(1)
    single.fill_(2)
    assert (half == 1).all()


def test_only_half_precision_without_spare_rows_lies_as_in_files() -> None:
    up = {
        (dtype, spare): Filling().rows((7, 5), 3, (dtype, CPU), spare=spare)[1] for dtype in DTYPES for spare in (0, 1)
    }
    assert {key for key, part in up.items() if part.stride() == (1, 3)} == {(torch.float16, 0), (torch.bfloat16, 0)}


def awkward(*shape: int) -> Tensor:
    """Return half-precision numbers of all sizes: subnormal, large, infinite, halfway between two others."""
    bits = torch.randint(-(2**15), 2**15, shape, dtype=torch.int16)
    values = bits.view(torch.float16)
    return torch.where(values.isnan(), torch.tensor(-0.0, dtype=torch.float16), values)


@pytest.mark.parametrize("into", DTYPES)
@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("at_once", [10, 1 << 18])
def test_a_copy_is_what_torch_makes_of_it(
    into: torch.dtype, source: torch.dtype, turned: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(filling, "AT_ONCE", at_once)
    values = awkward(37, 6).to(source)
    expected = values.to(into)
    target = torch.empty(6, 37, dtype=into).t() if turned else torch.empty(37, 6, dtype=into)
    pile = Filling()
    pile.copy(target, values)
    assert not torch.equal(target, expected) or not expected.any()
    pile.finish()
    assert torch.equal(target, expected)
    assert torch.equal(target.signbit(), expected.signbit())


def test_copies_are_made_once_and_in_order() -> None:
    pile, target = Filling(), torch.zeros(3)
    pile.copy(target, torch.full((3,), 1.0))
    pile.copy(target[1:], torch.full((2,), 2.0))
    pile.finish()
    assert target.tolist() == [1, 2, 2]
    target.zero_()
    pile.finish()
    assert not target.any()
