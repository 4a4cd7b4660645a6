"""Hundreds of adapters at once: what does not act costs its file only, and the bound on memory holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import lorica
from lorica.errors import ConfigError
from lorica.runtime import Loras
from lorica.runtime.bank.bank import CHILD
from lorica.runtime.bank.thin import Thin
from lorica.runtime.banks import Banks
from sample_layers import make_lora, one

RANK = 3
SIZE = RANK * (5 + 7) * 4  # bytes of one adapter in the bank of a Linear(5, 7)


def make(count: int) -> tuple[nn.Sequential, Loras, torch.Tensor]:
    """Return a model with adapters ``0``, ``1``, ... loaded at strength 0."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7))
    loras = lorica.attach(model)
    for index in range(count):
        loras.load(one(make_lora(model[0], rank=RANK)), name=str(index), strength=0.0)
    return model, loras, torch.randn(2, 5)


def held(model: nn.Sequential) -> list[str]:
    bank = dict(model[0].named_children()).get(CHILD)
    return sorted(bank.content.thin.slots) if bank is not None else []


def test_two_hundred_adapters_take_no_more_rows_than_the_bound() -> None:
    model, loras, x = make(200)
    loras.limit_memory(4 * SIZE)
    first: dict[str, torch.Tensor] = {}
    for index in range(200):
        loras.set({str(index): 1.0})
        first[str(index)] = model(x)
        assert len(held(model)) <= 4
    assert getattr(model[0], CHILD).content.thin.width <= 5 * RANK  # one more while rows change hands
    for name in ("0", "77", "199"):
        loras.set({name: 1.0})
        assert torch.allclose(model(x), first[name], atol=1e-6, rtol=0)
    assert len(loras.names) == 200


def test_the_one_that_acted_longest_ago_goes_first() -> None:
    model, loras, _ = make(4)
    loras.limit_memory(2 * SIZE)
    for name in ("0", "1", "0", "2"):
        loras.set({name: 1.0})
    assert held(model) == ["0", "2"]
    loras.set({"3": 1.0, "1": 0.5, "0": 0.1})  # what acts is held whatever the bound is
    assert held(model) == ["0", "1", "3"]


def test_without_a_bound_what_was_held_stays_and_is_not_copied_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, loras, x = make(3)
    assert held(model) == []
    for name in ("0", "1", "2"):
        loras.set({name: 1.0})
    before = model(x)
    monkeypatch.setattr(Banks, "prepare", None)
    loras.set({"0": 1.0, "1": 2.0})
    loras.set({"2": 1.0})
    assert torch.equal(model(x), before)


def test_a_bound_of_nothing_leaves_no_bank_when_nothing_acts() -> None:
    model, loras, x = make(3)
    base = model(x)
    loras.set({"0": 1.0, "2": 0.5})
    loras.limit_memory(0)
    assert held(model) == ["0", "2"]
    loras.set({})
    assert held(model) == []
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model(x), base)
    with pytest.raises(ConfigError, match="-1"):
        loras.limit_memory(-1)


def test_a_failure_while_paging_leaves_what_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, loras, x = make(2)
    loras.limit_memory(SIZE)
    loras.set({"0": 1.0})
    before = model(x)
    with monkeypatch.context() as patch:
        patch.setattr(Thin, "link", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            loras.set({"1": 1.0})
    assert loras.active == ["0"]
    loras.set({"0": 1.0})
    assert torch.equal(model(x), before)


def test_files_stay_mapped_until_they_act(tmp_path: Path) -> None:
    model, loras, x = make(0)
    path = lorica.write(one(make_lora(model[0])), tmp_path / "a.safetensors")
    name = loras.load(path, strength=0.0)
    assert held(model) == []
    base = model(x)
    loras.set({name: 1.0})
    assert not torch.equal(model(x), base)
