"""What holds for each method on each layer: the bank gives what the changed weight gives; strength 0 is the base."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lorica
from lorica.adapters import KINDS, AdapterLayer
from sample_layers import LAYERS, make_locon, make_lora, moved, one, relative_error, sample_input

FP32_NOISE = 2e-6  # relative; worst measured 6e-7 over all pairs of kind and layer x 50 seeds
HALF_NOISE = {torch.float16: 3e-3, torch.bfloat16: 2e-2}  # worst measured 1.1e-3 and 9e-3

MAKERS = {"lora": make_lora, "locon": make_locon}
PAIRS = [
    pytest.param(kind, name, id=f"{kind}-{name.replace(' ', '-')}")
    for kind in KINDS
    for name in LAYERS
    if kind != "locon" or name.startswith("conv")
]


def make_pair(kind: str, name: str, seed: int = 0) -> tuple[nn.Module, AdapterLayer]:
    torch.manual_seed(seed)
    layer = LAYERS[name]()
    return layer, MAKERS[kind](layer)


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_the_bank_gives_what_the_changed_weight_gives(kind: str, name: str) -> None:
    layer, change = make_pair(kind, name)
    x, model = sample_input(layer), nn.Sequential(layer)
    expected = moved(layer, [(change, 0.7)])(x)
    base = layer(x)
    lorica.attach(model).load(one(change), name="a", strength=0.7)
    assert relative_error(model(x), expected) < FP32_NOISE
    assert relative_error(base, expected) > 0.01  # or the test would pass by doing nothing


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_several_adapters_add_their_deltas_of_the_base_weight(kind: str, name: str) -> None:
    layer, first = make_pair(kind, name)
    second = make_lora(layer, rank=2, alpha=5.0)
    x, model = sample_input(layer), nn.Sequential(layer)
    expected = moved(layer, [(first, 0.7), (second, -1.3)])(x)
    loras = lorica.attach(model)
    loras.load(one(first), name="a", strength=0.7)
    loras.load(one(second), name="b", strength=-1.3)
    assert relative_error(model(x), expected) < FP32_NOISE


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_strength_0_is_the_base_bit_for_bit(kind: str, name: str) -> None:
    layer, change = make_pair(kind, name)
    x, model = sample_input(layer), nn.Sequential(layer)
    base = model(x)
    loras = lorica.attach(model)
    loras.load(one(change), name="a", strength=0.0)
    assert torch.equal(model(x), base)
    loras.set({"a": 1.0})
    assert not torch.equal(model(x), base)
    loras.set({})
    assert torch.equal(model(x), base)


@pytest.mark.parametrize("dtype", HALF_NOISE)
@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_half_precision_stays_half_and_near(kind: str, name: str, dtype: torch.dtype) -> None:
    layer, change = make_pair(kind, name)
    x, model = sample_input(layer), nn.Sequential(layer)
    expected = moved(layer, [(change, 0.7)])(x)
    lorica.attach(model).load(one(change), name="a", strength=0.7)
    model.to(dtype)
    got = model(x.to(dtype) if x.is_floating_point() else x)
    assert got.dtype == dtype
    assert relative_error(got, expected) < HALF_NOISE[dtype]


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_factors_multiply_to_the_delta(kind: str, name: str) -> None:
    layer, change = make_pair(kind, name)
    factors = change.factors()
    assert factors is not None
    product = (factors.up.flatten(1) @ factors.down.flatten(1)).view(layer.weight.shape) * factors.scaling
    assert relative_error(product, change.delta(layer.weight)) < FP32_NOISE


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_detach_leaves_no_trace(kind: str, name: str) -> None:
    layer, change = make_pair(kind, name)
    x, model = sample_input(layer), nn.Sequential(layer)
    base, before = model(x), {key: value.clone() for key, value in model.state_dict().items()}
    attributes = [set(module.__dict__) for module in model.modules()]
    loras = lorica.attach(model)
    loras.load(one(change), name="a")
    assert model.state_dict().keys() == before.keys()
    loras.detach()
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert torch.equal(model(x), base)
    assert [set(module.__dict__) for module in model.modules()] == attributes
    assert not any(module._forward_hooks for module in model.modules())
