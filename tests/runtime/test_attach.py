"""Attach, load, set, switch, remove: all or nothing on a live model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import lorica
from lorica.adapters import Adapter, AdapterLayer, LoRA
from lorica.errors import ConfigError, ModelError, StateError, UnknownNameError
from sample_layers import make_lora, one, relative_error

FP32_NOISE = 2e-6  # relative; worst measured 5e-7 over 50 seeds


class TwoLayers(nn.Module):
    """A model with two layers of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.second = nn.Linear(7, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


class Pipeline:
    """A stand-in with two components."""

    def __init__(self, model: nn.Module) -> None:
        self.components = {"unet": model, "text_encoder": nn.Linear(2, 3)}


def make() -> tuple[TwoLayers, Adapter, Adapter, torch.Tensor]:
    torch.manual_seed(0)
    model = TwoLayers()
    both = Adapter({"model": {"first": make_lora(model.first), "second": make_lora(model.second, rank=2)}})
    return model, both, Adapter({"model": {"second": make_lora(model.second, rank=4)}}), torch.randn(3, 5)


def test_attach_twice_returns_the_same_adapters() -> None:
    model, both, _, _ = make()
    loras = lorica.attach(model)
    loras.load(both, name="a")
    assert lorica.attach(model) is loras


def test_a_module_that_belongs_to_another_attached_model_is_refused() -> None:
    model, both, _, _ = make()
    lorica.attach(model).load(both, name="a")

    with pytest.raises(StateError, match="already belongs to another"):
        lorica.attach(Pipeline(model))


def test_set_names_the_whole_active_set() -> None:
    model, both, second, x = make()
    base = model(x)
    loras = lorica.attach(model)
    loras.load(both, name="a", strength=0.5)
    loras.load(second, name="b")
    assert loras.names == ["a", "b"]
    assert loras.strengths == {"a": 0.5, "b": 1.0}
    loras.set({"b": 0.25})
    assert (loras.active, loras.names) == (["b"], ["a", "b"])
    loras.disable()
    assert torch.equal(model(x), base)
    loras.enable()
    second_layer = moved_plain(model.second, second.components["model"]["second"], strength=0.25)
    hidden = nn.functional.linear(x, model.first.weight, model.first.bias).relu()
    assert relative_error(model(x), second_layer(hidden)) < FP32_NOISE


def test_using_restores_what_was_also_after_an_error() -> None:
    model, both, second, x = make()
    loras = lorica.attach(model)
    loras.load(both, name="a", strength=0.5)
    loras.load(second, name="b", strength=2.0)
    before = model(x)
    with pytest.raises(ZeroDivisionError), loras.using({"b": 1.0}):
        loras.set({"a": 1 / len(set(loras.active) - {"b"})})
    assert loras.strengths == {"a": 0.5, "b": 2.0}
    assert torch.equal(model(x), before)


def test_removing_one_leaves_the_other_bit_for_bit() -> None:
    model, both, second, x = make()
    loras = lorica.attach(model)
    loras.load(second, name="b", strength=2.0)
    alone = model(x)
    loras.load(both, name="a")
    assert not torch.equal(model(x), alone)
    loras.remove("a")
    assert torch.equal(model(x), alone)
    assert loras.names == ["b"]


def test_a_layer_without_a_module_is_refused_and_nothing_changes() -> None:
    model, both, second, x = make()
    loras = lorica.attach(model)
    loras.load(second, name="b")
    before, banks = model(x), len(list(model.modules()))
    layers = {**both.components["model"], "fist": make_lora(model.first)}
    with pytest.raises(ModelError, match=r"(?s)1 of its 3 layers.*'fist'.*Nearest: first"):
        loras.load(Adapter({"model": layers}), name="a")
    assert torch.equal(model(x), before)
    assert (loras.names, len(list(model.modules()))) == (["b"], banks)


def test_a_layer_of_another_shape_is_refused_with_both_shapes() -> None:
    model, _, _, _ = make()
    wrong = Adapter({"model": {"first": LoRA(torch.randn(2, 6), torch.randn(7, 2))}})
    with pytest.raises(ModelError, match=r"(?s)shape \(7, 6\), but the weight here is \(7, 5\)"):
        lorica.attach(model).load(wrong, name="a")
    assert lorica.attach(Pipeline(model)).names == []  # the model still belongs to nobody


def test_a_component_that_the_model_lacks_is_refused() -> None:
    model, both, _, _ = make()
    adapter = Adapter({**both.components, "text_encoder": {"q": make_lora(model.first)}})
    with pytest.raises(ModelError, match=r"component 'text_encoder'.*only has model"):
        lorica.attach(model).load(adapter, name="a")


def test_an_empty_adapter_is_refused() -> None:
    with pytest.raises(ModelError, match="nothing to load"):
        lorica.attach(nn.Linear(2, 3)).load(Adapter({}), name="a")


def test_names_are_unique_and_made_up_where_none_is_given() -> None:
    model, both, second, _ = make()
    loras = lorica.attach(model)
    assert [loras.load(both), loras.load(second), loras.load(second)] == ["adapter", "adapter_2", "adapter_3"]
    loras.remove("adapter_2")
    assert loras.load(second) == "adapter_2"
    with pytest.raises(StateError, match="already loaded"):
        loras.load(both, name="adapter")
    with pytest.raises(ConfigError, match="empty"):
        loras.load(both, name="")


def test_an_unknown_adapter_gets_the_nearest_name_and_nothing_changes() -> None:
    model, both, _, _ = make()
    loras = lorica.attach(model)
    loras.load(both, name="style.v2", strength=0.5)
    with pytest.raises(UnknownNameError, match=r"Did you mean 'style.v2'"):
        loras.set({"style.v1": 1.0})
    assert loras.strengths == {"style.v2": 0.5}


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match="got str"):
        lorica.attach("unet")


def test_a_copy_of_an_attached_model_is_independent() -> None:
    model, both, _, x = make()
    loras = lorica.attach(model)
    loras.load(both, name="a")
    attached = model(x)
    twin = copy.deepcopy(model)
    loras.detach()
    assert torch.equal(twin(x), attached)
    assert not torch.equal(model(x), attached)
    with pytest.raises(StateError, match="is a copy"):
        lorica.attach(twin)


def test_a_layer_called_by_keyword_is_served() -> None:
    layer = nn.Linear(5, 7)
    change = make_lora(layer)
    x, model = torch.randn(3, 5), nn.ModuleDict({"0": layer})
    lorica.attach(model).load(one(change), name="a")
    assert relative_error(layer(input=x), moved_plain(layer, change)(x)) < FP32_NOISE


def moved_plain(layer: nn.Linear, change: AdapterLayer, strength: float = 1.0) -> nn.Linear:
    """Return a new Linear that has the change in its weight, without the hooks of the given one."""
    plain = nn.Linear(layer.in_features, layer.out_features)
    with torch.no_grad():
        plain.weight.copy_(layer.weight + strength * change.delta(layer.weight))
        plain.bias.copy_(layer.bias)
    return plain


def test_gradients_flow_through_an_attached_layer() -> None:
    model, both, _, x = make()
    lorica.attach(model).load(both, name="a")
    x.requires_grad_(True)
    model(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
