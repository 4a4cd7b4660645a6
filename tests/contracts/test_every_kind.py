"""What holds for each method on each layer: all roads give what ``delta`` gives; strength 0 is the base.

One test for each sample goes through all layers that it can be for.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import lorica
from lorica.adapters import ANY, KINDS, AdapterLayer
from lorica.adapters.operation import operate
from lorica.errors import ShapeError
from sample_kinds import SAMPLES
from sample_layers import LAYERS, NORMS, make_lora, moved, one, relative_error, sample_input

FP32_NOISE = 2e-6  # relative; worst measured 4e-7 over all pairs of sample and layer x 3 seeds
HALF_NOISE = {torch.float16: 4e-3, torch.bfloat16: 5e-2}  # worst measured 1.7e-3 and 2.9e-2, the same pairs
STORED = (torch.float16, torch.bfloat16, torch.float64)

# On which layers a road exists is part of a method: kinds that are not named here have none.
BYPASSES = {"lokr", "glora", "ia3", "oft", "oft_v2", "boft", "vera", "full", "norm", "joined_rows"}
THIN = {"lora", "locon", "loha", "lokr", "glora", "vera", "joined_rows"}

every_sample = pytest.mark.parametrize("sample", [pytest.param(name, id=name.replace(" ", "-")) for name in SAMPLES])


def pairs(sample: str, seed: int = 0) -> Iterator[tuple[str, nn.Module, AdapterLayer]]:
    """Yield the name of each layer that the sample can be for, the layer, and a change of it."""
    is_for, make = SAMPLES[sample]
    for name, make_layer in (LAYERS | NORMS).items():
        torch.manual_seed(seed)
        layer = make_layer()
        if is_for(layer):
            with torch.no_grad():
                layer.weight.add_(torch.randn(layer.weight.shape) / 8)  # a norm's weight begins as ones
            layer.requires_grad_(False)
            yield name, layer, make(layer)


def test_there_is_a_sample_of_every_kind_and_every_layer_has_some() -> None:
    found = {(change.kind, name) for sample in SAMPLES for name, _, change in pairs(sample)}
    assert {kind for kind, _ in found} == set(KINDS)
    assert {name for _, name in found} == set(LAYERS | NORMS)


@every_sample
def test_delta_is_float32_in_the_shape_of_the_weight_and_leaves_the_weight_alone(sample: str) -> None:
    for name, layer, change in pairs(sample):
        before = layer.weight.clone()
        delta = change.delta(layer.weight)
        assert (delta.dtype, delta.shape) == (torch.float32, before.shape), name
        delta.add_(1)  # a tensor of its own
        assert torch.equal(layer.weight, before), name
        assert torch.equal(change.delta(layer.weight) + 1, delta), name
        assert (delta - 1).norm() > 0.01 * before.norm() or sample == "bias", name  # or it would do nothing


@every_sample
@pytest.mark.parametrize("dtype", STORED)
def test_delta_is_computed_in_float32_from_tensors_of_any_dtype(sample: str, dtype: torch.dtype) -> None:
    for name, layer, change in pairs(sample):
        stored, weight = change.map(lambda tensor: tensor.to(dtype)), layer.weight.to(dtype)
        assert torch.equal(stored.delta(weight), stored.map(torch.Tensor.float).delta(weight.float())), name
        assert all(tensor.dtype == dtype for tensor in stored.tensors.values()), name


@pytest.mark.slow  # the meta device takes seconds to import
@every_sample
def test_delta_comes_out_where_the_weight_is(sample: str) -> None:
    for name, layer, change in pairs(sample):
        assert change.delta(layer.weight.to("meta")).device.type == "meta", name
        factors = change.factors_on(layer.weight.to("meta"))
        if factors is not None and change.factors() is None:
            assert factors.down.device.type == factors.up.device.type == "meta", name


@every_sample
def test_bypass_adds_what_the_operation_with_delta_gives(sample: str) -> None:
    found: set[str] = set()
    for name, layer, change in pairs(sample):
        x = sample_input(layer)
        got = change.bypass(x, layer)
        if got is not None:
            found.add(change.kind)
            assert relative_error(got, operate(layer, x, change.delta(layer.weight))) < FP32_NOISE, name
    assert found == {change.kind for _, _, change in pairs(sample)} & BYPASSES


@pytest.mark.parametrize("dtype", HALF_NOISE)
@every_sample
def test_bypass_stays_in_half_precision(sample: str, dtype: torch.dtype) -> None:
    for name, layer, change in pairs(sample):
        x = sample_input(layer)
        expected = operate(layer, x, change.delta(layer.weight))
        half = x.to(dtype) if x.is_floating_point() else x
        got = change.map(lambda tensor: tensor.to(dtype)).bypass(half, layer.to(dtype))
        if got is not None:
            assert got.dtype == dtype, name
            assert relative_error(got, expected) < HALF_NOISE[dtype], name


@every_sample
def test_factors_multiply_to_the_delta(sample: str) -> None:
    found: set[str] = set()
    for name, layer, change in pairs(sample):
        factors = change.factors_on(layer.weight)
        if factors is not None:
            found.add(change.kind)
            product = (factors.up.float() @ factors.down.float().flatten(1)).view(layer.weight.shape)
            assert relative_error(product * factors.scaling, change.delta(layer.weight)) < FP32_NOISE, name
            assert factors.down.shape[1:] == layer.weight.shape[1:], name
            assert factors.up.shape == (len(layer.weight), len(factors.down)), name
    assert found == {change.kind for _, _, change in pairs(sample)} & THIN


@every_sample
def test_map_keeps_everything_else(sample: str) -> None:
    for name, layer, change in pairs(sample):
        twin = change.map(torch.clone)
        assert twin == change, name
        assert twin is not change, name
        assert (repr(twin), list(twin.tensors)) == (repr(change), list(change.tensors)), name
        assert change.map(torch.Tensor.double) != change, name
        assert torch.equal(twin.delta(layer.weight), change.delta(layer.weight)), name
        assert (twin.bias_delta() is None) == (not any(leaf.endswith("bias") for leaf in change.tensors)), name


@every_sample
def test_one_changed_number_makes_it_another(sample: str) -> None:
    for name, _, change in pairs(sample):
        for leaf, tensor in change.tensors.items():
            other = tensor.clone()
            other.view(-1)[-1] += 1
            swapped = change.map(lambda found, tensor=tensor, other=other: other if found is tensor else found)
            assert swapped != change, f"{name} {leaf}"


@every_sample
def test_a_layer_cannot_be_changed(sample: str) -> None:
    for _, _, change in pairs(sample):
        for attribute in ("alpha", "tensors", *change.settings):
            with pytest.raises(AttributeError, match="immutable"):
                setattr(change, attribute, 2.0)
        with pytest.raises(TypeError):
            change.tensors["bias"] = torch.zeros(1)  # type: ignore[index]


@every_sample
def test_a_weight_of_another_shape_is_refused_with_both_shapes(sample: str) -> None:
    for name, layer, change in pairs(sample):
        shape = tuple(layer.weight.shape)
        change.check_fits(shape)
        assert len(change.weight_shape) == 2 or change.weight_shape == shape, name
        assert change.weight_shape[0] in (ANY, shape[0]), name
        other = tuple(size + 1 for size in shape)
        with pytest.raises(ShapeError, match=rf"{shape[0]}.*{other[0]}|{ANY}.*{other[0]}"):
            change.check_fits(other)


@every_sample
def test_rank_is_a_whole_number(sample: str) -> None:
    for name, _, change in pairs(sample):
        assert isinstance(change.rank, int), name
        assert change.rank > 0 or sample == "bias", name


@every_sample
def test_a_bias_of_another_length_is_refused(sample: str) -> None:
    for _, layer, change in pairs(sample):
        bias, shape = change.tensors.get("bias"), tuple(layer.weight.shape)
        if bias is not None:
            longer = bias.new_zeros(len(bias) + 1)
            with pytest.raises(ShapeError, match=r"bias|the adapter changes a weight"):
                change.map(lambda found, bias=bias, longer=longer: longer if found is bias else found).check_fits(shape)


# A live model.


@every_sample
def test_a_live_layer_gives_what_the_changed_weight_gives(sample: str) -> None:
    for name, layer, change in pairs(sample):
        x, model = sample_input(layer), nn.Sequential(layer)
        expected = moved(layer, [(change, 0.7)])(x)
        base = layer(x)
        lorica.attach(model).load(one(change), name="a", strength=0.7)
        assert relative_error(model(x), expected) < FP32_NOISE, name
        assert relative_error(base, expected) > 0.01, name  # or the test would pass by doing nothing


@every_sample
def test_several_adapters_add_their_deltas_of_the_base_weight(sample: str) -> None:
    for name, layer, first in pairs(sample):
        second = make_lora(layer, rank=2, alpha=5.0) if layer.weight.ndim > 1 else SAMPLES["norm"][1](layer)
        x, model = sample_input(layer), nn.Sequential(layer)
        expected = moved(layer, [(first, 0.7), (second, -1.3)])(x)
        loras = lorica.attach(model)
        loras.load(one(first), name="a", strength=0.7)
        loras.load(one(second), name="b", strength=-1.3)
        assert relative_error(model(x), expected) < FP32_NOISE, name


@every_sample
def test_strength_0_is_the_base_bit_for_bit(sample: str) -> None:
    for name, layer, change in pairs(sample):
        x, model = sample_input(layer), nn.Sequential(layer)
        base = model(x)
        loras = lorica.attach(model)
        loras.load(one(change), name="a", strength=0.0)
        assert torch.equal(model(x), base), name
        loras.set({"a": 1.0})
        assert not torch.equal(model(x), base), name
        loras.set({})
        assert torch.equal(model(x), base), name


@pytest.mark.parametrize("dtype", HALF_NOISE)
@every_sample
def test_half_precision_stays_half_and_near(sample: str, dtype: torch.dtype) -> None:
    for name, layer, change in pairs(sample):
        x, model = sample_input(layer), nn.Sequential(layer)
        expected = moved(layer, [(change, 0.7)])(x)
        lorica.attach(model).load(one(change), name="a", strength=0.7)
        model.to(dtype)
        got = model(x.to(dtype) if x.is_floating_point() else x)
        assert got.dtype == dtype, name
        assert relative_error(got, expected) < HALF_NOISE[dtype], name


@every_sample
def test_detach_leaves_no_trace(sample: str) -> None:
    for name, layer, change in pairs(sample):
        x, model = sample_input(layer), nn.Sequential(layer)
        base, before = model(x), {key: value.clone() for key, value in model.state_dict().items()}
        attributes = [set(module.__dict__) for module in model.modules()]
        loras = lorica.attach(model)
        loras.load(one(change), name="a")
        assert model.state_dict().keys() == before.keys(), name
        loras.detach()
        after = model.state_dict()
        assert list(after) == list(before), name
        assert all(torch.equal(after[key], before[key]) for key in before), name
        assert torch.equal(model(x), base), name
        assert [set(module.__dict__) for module in model.modules()] == attributes, name
        assert not any(module._forward_hooks for module in model.modules()), name
