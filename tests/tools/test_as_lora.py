"""Layers as plain LoRAs: exact where there are thin factors, the closest of a rank otherwise, and the error is true."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorica.adapters import AdapterLayer, GLoRA, LoCon, LoRA
from lorica.tools.as_lora import Rewritten, rewrite

FOLDING_NOISE = 1e-6  # relative error of exact factors in float32; worst measured 2e-7
SHAPE = (17, 14, 3, 2)


class Dense(AdapterLayer):
    """A change without factors, which may depend on the base weight."""

    kind = "sample"
    __slots__ = ("times_base",)

    def __init__(self, diff: Tensor, *, times_base: bool = False, bias: Tensor | None = None) -> None:
        self.times_base = times_base
        self.tensors = {"diff": diff} if bias is None else {"diff": diff, "bias": bias}
        self.alpha = 1.0

    @property
    def rank(self) -> int:
        return 1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return tuple(self.tensors["diff"].shape)

    def delta(self, weight: Tensor) -> Tensor:
        diff = self.tensors["diff"].float()
        return diff * weight if self.times_base else diff

    def _check(self) -> None:
        return


def tucker(rank: int = 3, dtype: torch.dtype = torch.float32) -> LoCon:
    down, mid = torch.randn(rank, SHAPE[1], 1, 1), torch.randn(rank, rank, *SHAPE[2:])
    return LoCon(down.to(dtype), mid.to(dtype), torch.randn(SHAPE[0], rank, 1, 1).to(dtype), 2.5)


def done(layer: AdapterLayer, rank: int | None = None, **options: object) -> Rewritten:
    wanted = {"dtype": None, "base": None, **options}
    result = rewrite(layer, layer.weight_shape, rank=rank, **wanted)
    assert isinstance(result, Rewritten), result
    return result


def refused(layer: AdapterLayer, rank: int | None = None) -> str:
    result = rewrite(layer, layer.weight_shape, rank=rank, dtype=None, base=None)
    assert isinstance(result, str)
    return result


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_tucker_core_is_folded_exactly(dtype: torch.dtype) -> None:
    layer = tucker(dtype=dtype)
    result = done(layer)
    assert (result.exact, result.layer.rank, result.layer.down.dtype) == (True, 3, torch.float32)
    assert result.layer.weight_shape == SHAPE
    assert relative(result.layer.delta(torch.zeros(SHAPE)), layer.delta(torch.zeros(SHAPE))) < FOLDING_NOISE
    assert result.error < FOLDING_NOISE


def test_exact_factors_larger_than_the_rank_are_not_taken() -> None:
    assert done(tucker(rank=3), rank=3).exact
    assert not done(tucker(rank=3), rank=2).exact


def test_factors_larger_than_the_change_itself_are_no_gain() -> None:
    wide = LoCon(torch.randn(11, 4, 1, 1), torch.randn(11, 11, 3, 2), torch.randn(5, 11, 1, 1))
    assert "has no exact factors that are smaller" in refused(wide)
    assert not isinstance(rewrite(wide, wide.weight_shape, rank=4, dtype=None, base=None), str)


@pytest.mark.parametrize("shape", [(9, 7), (7, 9), SHAPE, (6, 5, 4)], ids=str)
@pytest.mark.parametrize("rank", [1, 4])
def test_the_closest_of_a_rank_leaves_the_smaller_singular_values(shape: tuple[int, ...], rank: int) -> None:
    diff = torch.randn(shape)
    result = done(Dense(diff), rank=rank)
    sizes = torch.linalg.svdvals(diff.flatten(1).double())
    assert result.error == pytest.approx((sizes[rank:].norm() / sizes.norm()).item(), rel=1e-5)
    assert relative(result.layer.delta(diff), diff) == pytest.approx(result.error, rel=1e-5)
    assert (result.exact, result.layer.rank, result.layer.alpha) == (False, rank, float(rank))


@pytest.mark.parametrize("alpha", [2.5, -0.5])
def test_the_closest_to_factors_is_the_closest_to_their_product(alpha: float) -> None:
    layer = LoRA(torch.randn(5, *SHAPE[1:]), torch.randn(SHAPE[0], 5, 1, 1), alpha)
    whole = layer.delta(torch.zeros(SHAPE))
    result, other = done(layer, rank=2), done(Dense(whole), rank=2)
    assert (result.exact, result.layer.rank, result.layer.weight_shape) == (False, 2, SHAPE)
    assert relative(result.layer.delta(whole), other.layer.delta(whole)) < FOLDING_NOISE
    assert result.error == pytest.approx(other.error, rel=1e-5)


def test_a_change_with_factors_is_not_decomposed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorica.tools.as_lora._dense", lambda _: pytest.fail("it was built"))
    assert done(tucker(rank=3), rank=2).layer.rank == 2


def test_a_glora_on_a_known_base_is_a_lora_by_exact_factors() -> None:
    layer = GLoRA(torch.randn(13, 2), torch.randn(2, 13), torch.randn(17, 2), torch.randn(2, 13), alpha=1.5)
    weight = torch.randn(17, 13)
    assert "depends on the weight of the base model" in refused(layer)
    result = rewrite(layer, (17, 13), rank=None, dtype=None, base=lambda: weight)
    assert isinstance(result, Rewritten)
    assert (result.exact, result.layer.rank) == (True, 4)
    assert relative(result.layer.delta(weight), layer.delta(weight)) < FOLDING_NOISE


def test_a_rank_beyond_the_weight_is_cut_to_it() -> None:
    result = done(Dense(torch.randn(4, 9)), rank=50)
    assert result.layer.rank == 4
    assert result.error < FOLDING_NOISE


def test_a_change_that_depends_on_the_base_needs_it() -> None:
    layer, weight = Dense(torch.randn(6, 5), times_base=True), torch.randn(6, 5)
    assert "depends on the weight of the base model" in refused(layer, rank=5)
    result = done(layer, rank=5, base=lambda: weight)
    assert relative(result.layer.delta(weight), layer.delta(weight)) < FOLDING_NOISE


def test_the_base_is_not_asked_for_without_need() -> None:
    def fail() -> Tensor:
        raise AssertionError

    assert done(Dense(torch.randn(6, 5)), rank=2, base=fail)


def test_an_approximation_keeps_the_dtype_of_the_layer_and_says_what_it_costs() -> None:
    diff = torch.randn(6, 5).bfloat16()
    result = done(Dense(diff), rank=5)
    assert result.layer.down.dtype == torch.bfloat16
    assert relative(result.layer.delta(diff), diff.float()) == pytest.approx(result.error, rel=1e-5)
    assert result.error > 1e-4  # rounded to bfloat16, and said so
    assert done(Dense(diff), rank=5, dtype=torch.float32).error < FOLDING_NOISE


def test_the_change_of_the_bias_is_kept() -> None:
    bias = torch.randn(6)
    result = done(Dense(torch.randn(6, 5), bias=bias), rank=2)
    assert torch.equal(result.layer.tensors["bias"], bias)


def test_a_change_of_no_matrix_is_no_lora() -> None:
    assert "changes no matrix" in refused(Dense(torch.randn(6)), rank=2)


def test_no_change_at_all_has_no_error() -> None:
    assert done(Dense(torch.zeros(6, 5)), rank=2).error == 0.0


def test_it_is_the_layer_that_was_given() -> None:
    layer = LoRA(torch.randn(2, 5), torch.randn(7, 2), 3.0)
    result = done(layer)
    assert torch.equal(result.layer.down, layer.down)
    assert result.error == 0.0
