"""Fusing adapters into the weights: the same output as live, and out again bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lorica
from bank_memory import served
from lorica.adapters import IA3, Adapter, Full, LoRA
from lorica.errors import ModelError, StateError, UnknownNameError
from sample_layers import LAYERS, make_locon, make_lora, one, relative_error, sample_input

FP32_NOISE = 2e-6  # relative; worst measured 6e-7 over all layers x 20 seeds
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def make(name: str = "conv2d strided", dtype: torch.dtype = torch.float32) -> tuple[nn.Sequential, lorica.Loras]:
    """Return a model of one layer with two adapters loaded, ``a`` live at 0.7 and ``b`` off."""
    torch.manual_seed(0)
    layer = LAYERS[name]().to(dtype)
    model = nn.Sequential(layer)
    loras = lorica.attach(model)
    loras.load(one(make_lora(layer)), name="a", strength=0.7)
    loras.load(one(make_lora(layer, rank=2, alpha=3.0)), name="b")
    loras.set({"a": 0.7})
    return model, loras


@pytest.mark.parametrize("name", LAYERS)
def test_fused_gives_what_live_gives(name: str) -> None:
    model, loras = make(name)
    x = sample_input(model[0])
    loras.set({"a": 0.7, "b": -1.3})
    live = model(x)
    loras.fuse({"a": 0.7, "b": -1.3})
    assert (loras.active, loras.fused) == ([], {"a": 0.7, "b": -1.3})
    assert relative_error(model(x), live) < FP32_NOISE
    assert not served(model)
    assert not model[0]._forward_hooks  # nothing is left to pay for


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_unfuse_restores_the_weight_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    model, loras = make(name, dtype)
    before, parameter = model[0].weight.detach().clone(), model[0].weight
    for _ in range(3):
        loras.fuse({"a": 0.7, "b": 0.4})
        assert not torch.equal(model[0].weight, before)  # or the test would pass by doing nothing
        loras.unfuse()
        assert torch.equal(model[0].weight, before)
    assert model[0].weight is parameter
    assert loras.fused == {}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_weight_is_the_original_plus_all_deltas_with_one_rounding(dtype: torch.dtype) -> None:
    model, loras = make("linear", dtype)
    original = model[0].weight.detach().clone()
    loras.fuse({"a": 0.7})
    loras.fuse({"b": -1.3})
    layers = [loras[name].components["model"]["0"] for name in ("a", "b")]
    exact = original.double() + 0.7 * layers[0].delta(original).double() - 1.3 * layers[1].delta(original).double()
    spacing = torch.finfo(dtype).eps * exact.abs().clamp(min=torch.finfo(dtype).tiny)
    worst = ((model[0].weight.double() - exact).abs() / spacing).max()
    assert worst <= (0.51 if dtype != torch.float32 else 4.0)  # half a unit; in float32 the sum itself rounds too


def test_unfusing_one_of_two_leaves_what_fusing_the_other_alone_gives() -> None:
    model, loras = make()
    loras.fuse({"b": 0.4})
    alone = model[0].weight.detach().clone()
    loras.fuse({"a": 0.7})
    loras.unfuse("a")
    assert torch.equal(model[0].weight, alone)
    assert loras.fused == {"b": 0.4}


def test_fusing_again_changes_the_strength_and_nothing_adds_up() -> None:
    model, loras = make()
    loras.fuse({"a": 0.5})
    once = model[0].weight.detach().clone()
    loras.fuse({"a": 2.0})
    assert not torch.equal(model[0].weight, once)
    loras.fuse({"a": 0.5})
    assert torch.equal(model[0].weight, once)


def test_the_order_of_fusing_does_not_matter_for_disjoint_layers_nor_live_adapters_beside() -> None:
    model, loras = make()
    x = sample_input(model[0])
    loras.set({"a": 0.7, "b": -1.3})
    both = model(x)
    loras.fuse({"a": 0.7})
    assert loras.strengths == {"b": -1.3}
    assert relative_error(model(x), both) < FP32_NOISE
    loras.unfuse()
    assert loras.active == ["b"]
    loras.set({"a": 0.7, "b": -1.3})
    assert torch.equal(model(x), both)


def test_an_adapter_is_live_or_fused_never_both() -> None:
    _, loras = make()
    loras.fuse({"a": 0.7})
    with pytest.raises(StateError, match=r"'a' is fused.*unfuse\('a'\)"):
        loras.set({"a": 1.0, "b": 1.0})
    with pytest.raises(StateError, match=r"'b' is not fused\. Fused: a"):
        loras.unfuse("b")
    with pytest.raises(UnknownNameError, match="'c'"):
        loras.fuse({"c": 1.0})
    assert loras.fused == {"a": 0.7}


@pytest.mark.parametrize("leave", ["remove", "detach"])
def test_removing_a_fused_adapter_restores_the_weights(leave: str) -> None:
    model, loras = make()
    original = LAYERS["conv2d strided"]()
    original.load_state_dict(model[0].state_dict())
    loras.fuse({"a": 0.7})
    if leave == "remove":
        loras.remove("a")
        assert loras.names == ["b"]
    else:
        loras.detach()
    assert torch.equal(model[0].weight, original.weight)


def test_strengths_by_module_are_fused_as_such() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 4))
    before = [layer.weight.detach().clone() for layer in model]
    loras = lorica.attach(model)
    loras.load(Adapter({"model": {"0": make_lora(model[0]), "1": make_lora(model[1], rank=2)}}), name="a")
    loras.fuse({"a": {"model": {"0": 0.0}}})
    assert torch.equal(model[0].weight, before[0])
    assert not torch.equal(model[1].weight, before[1])


def test_a_tucker_core_is_fused_through_its_folded_factors() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(LAYERS["conv2d strided"]())
    change = make_locon(model[0])
    expected = model[0].weight + 0.5 * change.delta(model[0].weight)
    loras = lorica.attach(model)
    loras.load(one(change), name="a")
    loras.fuse({"a": 0.5})
    assert relative_error(model[0].weight, expected) < FP32_NOISE


def test_a_quantised_weight_is_refused_with_advice() -> None:
    class Packed(nn.Linear):
        """A Linear whose weight is packed, as in a quantised model."""

        def __init__(self) -> None:
            super().__init__(5, 7)
            self.weight = nn.Parameter(torch.zeros(7, 5, dtype=torch.uint8), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.weight.float(), self.bias)

    model = nn.Sequential(Packed())
    loras = lorica.attach(model)
    change = LoRA(torch.randn(2, 5), torch.randn(7, 2))
    loras.load(one(change), name="a")
    x = torch.randn(3, 5)
    assert (
        relative_error(model(x), nn.functional.linear(x, change.delta(torch.zeros(7, 5)), model[0].bias)) < FP32_NOISE
    )
    with pytest.raises(ModelError, match=r"model\.0: its weight is quantised.*Keep the adapter live"):
        loras.fuse({"a": 1.0})
    assert loras.active == ["a"]


def test_a_saved_state_dict_holds_the_fused_weights() -> None:
    model, loras = make()
    x = sample_input(model[0])
    loras.fuse({"a": 0.7})
    twin = nn.Sequential(LAYERS["conv2d strided"]())
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(x), model(x))


@pytest.mark.parametrize("with_bias", [True, False])
def test_a_live_change_of_the_bias_is_that_of_the_bias_before_fusing(with_bias: bool) -> None:
    torch.manual_seed(6)
    layer = nn.Linear(5, 7)
    weight, bias, x = layer.weight.detach().clone(), layer.bias.detach().clone(), torch.randn(3, 5)
    thin = LoRA(torch.randn(2, 5), torch.randn(7, 2), 3.0, bias=torch.randn(7) if with_bias else None)
    scale = IA3(torch.randn(7, 1), False, is_factor=True)  # scales the bias too
    loras = lorica.attach(nn.Sequential(layer))
    loras.load(one(thin), name="thin")
    loras.load(one(scale), name="scale")
    loras.set({})
    loras.fuse({"thin": 1.0})
    loras.set({"scale": 0.5})
    shift = 0.5 * scale.bias_delta(bias) + (thin.tensors["bias"] if with_bias else 0)
    expected = nn.functional.linear(x, weight + thin.delta(weight) + 0.5 * scale.delta(weight), bias + shift)
    assert relative_error(layer(x), expected) < FP32_NOISE


def test_what_stays_beside_an_adapter_that_went_keeps_its_own_strength() -> None:
    torch.manual_seed(7)
    layer = nn.Linear(5, 7)
    weight, bias, x = layer.weight.detach().clone(), layer.bias.detach().clone(), torch.randn(3, 5)
    changes = {name: Full(torch.randn(7, 5), torch.randn(7)) for name in ("first", "second", "third")}
    loras = lorica.attach(nn.Sequential(layer))
    for name, change in changes.items():
        loras.load(one(change), name=name)
    loras.remove("first")
    loras.set({"third": 0.5, "second": -0.25})
    third, second = changes["third"], changes["second"]
    moved = weight + 0.5 * third.delta(weight) - 0.25 * second.delta(weight)
    shifted = bias + 0.5 * third.tensors["bias"] - 0.25 * second.tensors["bias"]
    assert relative_error(layer(x), nn.functional.linear(x, moved, shifted)) < FP32_NOISE
