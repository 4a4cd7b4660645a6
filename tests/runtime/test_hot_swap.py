"""A hot swap: another adapter in the place of one that is loaded, in one step, all or nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lorica
from bank_memory import BANK, bytes_held, memory_held, served
from lorica.adapters import Adapter, BiasOnly, Full, LoRA
from lorica.errors import ModelError, StateError
from sample_layers import make_lora, one, relative_error

FP32_NOISE = 2e-6  # relative; worst measured 3e-7 over 20 seeds


def make() -> tuple[nn.Sequential, lorica.Loras, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 4))
    return model, lorica.attach(model), torch.randn(3, 5)


def both(model: nn.Sequential, rank: int = 3) -> Adapter:
    return Adapter({"model": {"0": make_lora(model[0], rank=rank), "1": make_lora(model[1], rank=2)}})


def alone(model: nn.Sequential, loras: lorica.Loras, adapter: Adapter, x: torch.Tensor) -> torch.Tensor:
    """What the model gives with one adapter that came to it first."""
    loras.load(adapter, name="alone", strength=0.7)
    y = model(x)
    loras.remove("alone")
    return y


def large_pieces(model: nn.Module) -> set[int]:
    """Return where factors lie: pieces of memory that hold a row of them at least."""
    return {address for address, size in memory_held(model).items() if size >= (5 + 7) * 4}


def test_the_new_one_acts_as_if_it_had_come_first() -> None:
    model, loras, x = make()
    first, second = both(model), both(model)
    expected = alone(model, loras, second, x)
    loras.load(first, name="a")
    assert loras.load(second, name="a", strength=0.7, replace=True) == "a"
    assert torch.equal(model(x), expected)
    assert (loras.names, loras.strengths, loras["a"] is second) == (["a"], {"a": 0.7}, True)


def test_layers_that_the_new_one_lacks_carry_nothing_any_longer() -> None:
    model, loras, x = make()
    narrow = one(make_lora(model[0]))
    expected = alone(model, loras, narrow, x)
    loras.load(both(model), name="a")
    loras.load(narrow, name="a", strength=0.7, replace=True)
    assert served(model) == ["0"]
    assert torch.equal(model(x), expected)


def test_the_others_go_on_as_they_are() -> None:
    model, loras, x = make()
    first, second, other = both(model, 3), both(model, 6), both(model, 2)
    loras.load(other, name="other", strength=-0.4)
    loras.load(second, name="b", strength=0.7)
    expected = model(x)
    loras.remove("b")
    loras.load(first, name="b")
    loras.load(second, name="b", strength=0.7, replace=True)
    assert relative_error(model(x), expected) < FP32_NOISE
    assert loras.strengths == {"other": -0.4, "b": 0.7}
    assert loras.names == ["other", "b"]


def test_one_that_is_replaced_while_it_is_off_leaves_no_rows() -> None:
    model, loras, x = make()
    base = model(x)
    loras.load(both(model), name="a")
    loras.load(both(model), name="a", strength=0.0, replace=True)
    assert not served(model)
    assert torch.equal(model(x), base)


def test_the_old_one_stays_if_the_new_one_does_not_fit() -> None:
    model, loras, x = make()
    adapter = both(model)
    loras.load(adapter, name="a", strength=0.7)
    before = model(x)
    with pytest.raises(ModelError, match="no place"):
        loras.load(one(make_lora(nn.Linear(6, 7))), name="a", replace=True)
    assert torch.equal(model(x), before)
    assert (loras["a"] is adapter, loras.strengths) == (True, {"a": 0.7})


def test_one_of_the_same_rank_takes_over_the_memory_and_brings_its_own_alpha() -> None:
    model, loras, x = make()
    down, up = torch.randn(3, 5), torch.randn(7, 3)
    other = one(LoRA(down, up, alpha=5.0))
    expected = alone(model, loras, other, x)
    loras.load(one(make_lora(model[0], rank=3)), name="a")
    bank, memory = getattr(model[0], BANK), large_pieces(model)
    loras.load(other, name="a", strength=0.7, replace=True)
    assert getattr(model[0], BANK) is bank
    assert large_pieces(model) == memory
    assert torch.equal(model(x), expected)


def test_what_is_held_beside_factors_is_replaced_too() -> None:
    model, loras, x = make()
    whole = Full(torch.randn(7, 5), torch.randn(7))
    biased = LoRA(torch.randn(3, 5), torch.randn(7, 3), bias=torch.randn(7))
    plain = make_lora(model[0], rank=3)
    for first, second in ((plain, whole), (whole, biased), (biased, plain), (plain, biased)):
        expected = alone(model, loras, one(second), x)
        loras.load(one(first), name="a")
        loras.load(one(second), name="a", strength=0.7, replace=True)
        assert torch.equal(model(x), expected)
        loras.remove("a")


def test_changes_of_a_bias_that_others_made_stay() -> None:
    model, loras, x = make()
    first, second = one(make_lora(model[0], rank=3)), one(make_lora(model[0], rank=3))
    loras.load(second, name="a", strength=0.7)
    loras.load(one(BiasOnly(torch.randn(7))), name="bias")
    expected = model(x)
    loras.load(first, name="a", replace=True)
    loras.load(second, name="a", strength=0.7, replace=True)
    assert torch.equal(model(x), expected)


def test_one_of_a_higher_rank_gets_the_rows_that_it_needs_and_no_more() -> None:
    model = nn.Sequential(nn.Linear(300, 200))
    loras = lorica.attach(model)
    loras.load(one(make_lora(model[0], rank=6)), name="a")
    loras.load(one(make_lora(model[0], rank=8)), name="a", replace=True)
    assert 8 <= bytes_held(model) / (4 * (300 + 200)) < 8 * 1.1


def test_what_is_fused_is_not_replaced() -> None:
    model, loras, _ = make()
    loras.load(both(model), name="a")
    loras.fuse({"a": 1.0})
    with pytest.raises(StateError, match="fused"):
        loras.load(both(model), name="a", replace=True)


def test_a_name_that_nobody_has_is_simply_loaded() -> None:
    model, loras, _ = make()
    loras.load(both(model), name="a", replace=True)
    with pytest.raises(StateError, match="replace=True"):
        loras.load(both(model), name="a")


def test_reserved_rows_are_used_in_turn() -> None:
    model, loras, x = make()
    adapters = [both(model, rank) for rank in (3, 2, 3)]
    expected = [alone(model, loras, adapter, x) for adapter in adapters]
    loras.reserve(rank=6)
    memory = large_pieces(model)
    for adapter, outputs in zip(adapters, expected, strict=True):
        loras.load(adapter, name="a", strength=0.7, replace=True)
        assert relative_error(model(x), outputs) < FP32_NOISE
    assert large_pieces(model) == memory
    with pytest.raises(StateError, match="reserve"):
        loras.load(both(model, 4), name="a", replace=True)
    assert relative_error(model(x), expected[2]) < FP32_NOISE
