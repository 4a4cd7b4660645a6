"""What holds for each method on each layer: all roads give what ``delta`` gives; strength 0 is the base."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import lorica
from lorica.adapters import ANY, KINDS, AdapterLayer
from lorica.adapters.operation import operate
from lorica.errors import ShapeError
from sample_layers import LAYERS, NORMS, SAMPLES, make_lora, moved, one, relative_error, sample_input

FP32_NOISE = 2e-6  # relative; worst measured 6e-7 over all pairs of kind and layer x 50 seeds
HALF_NOISE = {torch.float16: 3e-3, torch.bfloat16: 2e-2}  # worst measured 1.1e-3 and 9e-3
STORED = (torch.float16, torch.bfloat16, torch.float64)


def make_pair(sample: str, name: str, seed: int = 0) -> tuple[nn.Module, AdapterLayer]:
    torch.manual_seed(seed)
    layer = (LAYERS | NORMS)[name]()
    with torch.no_grad():
        layer.weight.add_(torch.randn(layer.weight.shape) / 8)  # a norm's weight begins as ones
    return layer, SAMPLES[sample][1](layer)


def named(sample: str, name: str) -> object:
    return pytest.param(sample, name, id=f"{sample}-{name}".replace(" ", "-"))


PAIRS = [
    (sample, name)
    for sample, (is_for, _) in SAMPLES.items()
    for name, layer in (LAYERS | NORMS).items()
    if is_for(layer())
]


def every(holds: Callable[[nn.Module, AdapterLayer], object] = lambda _layer, _change: True) -> pytest.MarkDecorator:
    """Return the mark for a test of all pairs of sample and layer of which something holds."""
    pairs = [named(*pair) for pair in PAIRS if holds(*make_pair(*pair))]
    return pytest.mark.parametrize(("sample", "name"), pairs)


def has_bypass(layer: nn.Module, change: AdapterLayer) -> bool:
    return change.bypass(sample_input(layer), layer) is not None


every_pair = every()
every_bypass = every(has_bypass)
every_bank = every(lambda _, change: change.factors() is not None)
every_thin = every(lambda layer, change: change.factors_on(layer.weight.detach()) is not None)
every_biased = every(lambda _, change: "bias" in change.tensors and len(change.tensors) > 1)


def test_there_is_a_sample_of_every_kind() -> None:
    assert {make_pair(*pair)[1].kind for pair in PAIRS} == set(KINDS)
    assert {sample for sample, _ in PAIRS} == set(SAMPLES)


@every_pair
def test_delta_is_float32_in_the_shape_of_the_weight_and_leaves_the_weight_alone(sample: str, name: str) -> None:
    layer, change = make_pair(sample, name)
    before = layer.weight.detach().clone()
    delta = change.delta(layer.weight.detach())
    assert (delta.dtype, delta.shape) == (torch.float32, before.shape)
    assert torch.equal(layer.weight, before)
    assert delta.norm() > 0.01 * before.norm() or sample == "bias"  # or the others would pass by doing nothing


@every_pair
@pytest.mark.parametrize("dtype", STORED)
def test_delta_is_computed_in_float32_from_tensors_of_any_dtype(sample: str, name: str, dtype: torch.dtype) -> None:
    layer, change = make_pair(sample, name)
    stored, weight = change.map(lambda tensor: tensor.to(dtype)), layer.weight.detach().to(dtype)
    assert torch.equal(stored.delta(weight), stored.map(torch.Tensor.float).delta(weight.float()))
    assert all(tensor.dtype == dtype for tensor in stored.tensors.values())


@every_bypass
def test_bypass_adds_what_the_operation_with_delta_gives(sample: str, name: str) -> None:
    layer, change = make_pair(sample, name)
    x = sample_input(layer)
    got = change.bypass(x, layer)
    expected = operate(layer, x, change.delta(layer.weight))
    assert relative_error(got, expected) < FP32_NOISE


@pytest.mark.parametrize("dtype", HALF_NOISE)
@every_bypass
def test_bypass_stays_in_half_precision(sample: str, name: str, dtype: torch.dtype) -> None:
    layer, change = make_pair(sample, name)
    x = sample_input(layer)
    expected = operate(layer, x, change.delta(layer.weight))
    half = x.to(dtype) if x.is_floating_point() else x
    got = change.map(lambda tensor: tensor.to(dtype)).bypass(half, layer.to(dtype))
    assert got.dtype == dtype
    assert relative_error(got, expected) < HALF_NOISE[dtype]


@every_thin
def test_factors_multiply_to_the_delta(sample: str, name: str) -> None:
    layer, change = make_pair(sample, name)
    factors = change.factors_on(layer.weight.detach())
    product = (factors.up.float().flatten(1) @ factors.down.float().flatten(1)).view(layer.weight.shape)
    assert relative_error(product * factors.scaling, change.delta(layer.weight)) < FP32_NOISE
    assert factors.down.shape[1:] == layer.weight.shape[1:]
    assert factors.up.shape == (len(layer.weight), len(factors.down))


@every_pair
def test_map_keeps_everything_else(sample: str, name: str) -> None:
    layer, change = make_pair(sample, name)
    twin = change.map(torch.clone)
    assert twin == change
    assert twin is not change
    assert repr(twin) == repr(change)
    assert change.map(torch.Tensor.double) != change
    assert torch.equal(twin.delta(layer.weight), change.delta(layer.weight))
    assert list(twin.tensors) == list(change.tensors)
    if change.tensors.get("bias") is not None:
        assert torch.equal(twin.bias_delta(), change.tensors["bias"])


@every_pair
def test_one_changed_number_makes_it_another(sample: str, name: str) -> None:
    _, change = make_pair(sample, name)
    for leaf, tensor in change.tensors.items():
        other = tensor.clone()
        other.view(-1)[-1] += 1
        assert change.map(lambda found, tensor=tensor, other=other: other if found is tensor else found) != change, leaf


@every_pair
def test_a_layer_cannot_be_changed(sample: str, name: str) -> None:
    _, change = make_pair(sample, name)
    with pytest.raises(AttributeError, match="immutable"):
        change.alpha = 2.0
    with pytest.raises(TypeError):
        change.tensors["bias"] = torch.zeros(1)  # type: ignore[index]


@every_pair
def test_a_weight_of_another_shape_is_refused_with_both_shapes(sample: str, name: str) -> None:
    layer, change = make_pair(sample, name)
    shape = tuple(layer.weight.shape)
    change.check_fits(shape)
    assert len(change.weight_shape) == 2 or change.weight_shape == shape
    assert change.weight_shape[0] in (ANY, shape[0])
    other = tuple(size + 1 for size in shape)
    with pytest.raises(ShapeError, match=rf"{other[0]}, ?.*|{other}"):
        change.check_fits(other)


@every_pair
def test_rank_is_a_whole_number(sample: str, name: str) -> None:
    _, change = make_pair(sample, name)
    assert isinstance(change.rank, int)
    assert change.rank >= 0


@every_biased
def test_a_bias_of_another_length_is_refused(sample: str, name: str) -> None:
    layer, change = make_pair(sample, name)
    bias = change.tensors["bias"]
    with pytest.raises(ShapeError, match=r"bias|the adapter changes a weight"):
        change.map(lambda tensor: tensor.new_zeros(len(layer.weight) + 1) if tensor is bias else tensor).check_fits(
            tuple(layer.weight.shape)
        )


# A live model.


@every_bank
def test_the_bank_gives_what_the_changed_weight_gives(sample: str, name: str) -> None:
    layer, change = make_pair(sample, name)
    x, model = sample_input(layer), nn.Sequential(layer)
    expected = moved(layer, [(change, 0.7)])(x)
    base = layer(x)
    lorica.attach(model).load(one(change), name="a", strength=0.7)
    assert relative_error(model(x), expected) < FP32_NOISE
    assert relative_error(base, expected) > 0.01  # or the test would pass by doing nothing


@every_bank
def test_several_adapters_add_their_deltas_of_the_base_weight(sample: str, name: str) -> None:
    layer, first = make_pair(sample, name)
    second = make_lora(layer, rank=2, alpha=5.0)
    x, model = sample_input(layer), nn.Sequential(layer)
    expected = moved(layer, [(first, 0.7), (second, -1.3)])(x)
    loras = lorica.attach(model)
    loras.load(one(first), name="a", strength=0.7)
    loras.load(one(second), name="b", strength=-1.3)
    assert relative_error(model(x), expected) < FP32_NOISE


@every_bank
def test_strength_0_is_the_base_bit_for_bit(sample: str, name: str) -> None:
    layer, change = make_pair(sample, name)
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
@every_bank
def test_half_precision_stays_half_and_near(sample: str, name: str, dtype: torch.dtype) -> None:
    layer, change = make_pair(sample, name)
    x, model = sample_input(layer), nn.Sequential(layer)
    expected = moved(layer, [(change, 0.7)])(x)
    lorica.attach(model).load(one(change), name="a", strength=0.7)
    model.to(dtype)
    got = model(x.to(dtype) if x.is_floating_point() else x)
    assert got.dtype == dtype
    assert relative_error(got, expected) < HALF_NOISE[dtype]


@every_bank
def test_detach_leaves_no_trace(sample: str, name: str) -> None:
    layer, change = make_pair(sample, name)
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
