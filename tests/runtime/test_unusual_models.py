"""Models and surroundings out of the ordinary: samples without a batch, shared weights, replaced layers, defaults."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

import lorica
from bank_memory import has_bank
from lorica.adapters import Adapter
from lorica.errors import ModelError, StateError
from sample_kinds import SAMPLES
from sample_layers import LAYERS, NORMS, make_lora, moved, one, relative_error, sample_input

FP32_NOISE = 3e-6  # relative; worst measured 4e-7
ONE_SAMPLE = [name for name in LAYERS if name != "embedding"]


@pytest.mark.parametrize("kind", ["full", "bias", "loha"])
@pytest.mark.parametrize("name", ONE_SAMPLE)
@pytest.mark.parametrize("grad", [True, False])
def test_one_sample_without_a_batch_gives_what_the_formula_says(name: str, kind: str, grad: bool) -> None:
    layer = LAYERS[name]()
    if layer.bias is None:
        return
    changes = [(make_lora(layer), 0.7), (make_lora(layer, rank=2), -1.3), (SAMPLES[kind][1](layer), 0.4)]
    x, expected = sample_input(layer)[0], moved(layer, changes)
    x = x[0] if isinstance(layer, nn.Linear) else x  # no axis but the features
    loras = lorica.attach(nn.Sequential(layer))
    for index, (change, strength) in enumerate(changes):
        loras.load(one(change), name=str(index), strength=strength)
    with torch.set_grad_enabled(grad):
        got = layer(x)
    assert got.shape == expected(x).shape
    assert relative_error(got, expected(x)) < FP32_NOISE


def test_a_norm_and_an_embedding_take_one_sample_too() -> None:
    for layer, kind, x in (
        (nn.LayerNorm(6), "norm", torch.randn(6)),
        (nn.Embedding(11, 6), "lora", torch.tensor(4)),
    ):
        change = make_lora(layer) if kind == "lora" else SAMPLES[kind][1](layer)
        expected = moved(layer, [(change, 0.7)])(x)
        lorica.attach(nn.Sequential(layer)).load(one(change), name="a", strength=0.7)
        assert layer(x).shape == expected.shape
        assert relative_error(layer(x), expected) < FP32_NOISE


def test_strengths_for_samples_refuse_an_input_without_a_batch() -> None:
    layer = nn.Linear(6, 7)
    loras = lorica.attach(nn.Sequential(layer))
    loras.load(one(make_lora(layer)), name="a")
    loras.per_sample([{"a": 1.0}, {"a": 0.5}])
    with pytest.raises(StateError, match=r"2 samples.*batch of 1"):
        layer(torch.randn(6))


def test_a_batch_of_nothing_gives_nothing() -> None:
    for name in LAYERS:
        layer = LAYERS[name]()
        loras = lorica.attach(nn.Sequential(layer))
        loras.load(one(make_lora(layer)), name="a", strength=0.7)
        loras.load(one(make_lora(layer, rank=2)), name="b", strength=0.3)
        x = sample_input(layer)[:0]
        with torch.no_grad():
            assert layer(x).shape == copy.deepcopy(layer)(x).shape


@contextmanager
def defaults(device: str, dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("device", "dtype"), [("meta", torch.float32), ("cpu", torch.bfloat16)])
@pytest.mark.parametrize("kind", SAMPLES)
def test_the_defaults_of_torch_do_not_matter(kind: str, device: str, dtype: torch.dtype) -> None:
    fits, make = SAMPLES[kind]
    for layer in (build() for name, build in (LAYERS | NORMS).items() if name in ("linear", "conv2d wide", *NORMS)):
        if not fits(layer):
            continue
        change, x = make(layer), sample_input(layer)
        expected = moved(layer, [(change, 0.7)])(x)
        outputs: list[Tensor] = []
        with defaults(device, dtype):
            loras = lorica.attach(nn.Sequential(layer))
            loras.load(one(change), name="a", strength=0.7)
            outputs.append(layer(x))
            loras.per_sample([{"a": 0.7}, {"a": 0.7}])
            with torch.no_grad():
                outputs.append(layer(x))
            loras.fuse({"a": 0.7})
            outputs.append(layer(x))
            loras.detach()
        for got in outputs:
            assert got.dtype == torch.float32
            assert relative_error(got, expected) < FP32_NOISE


def test_what_a_global_hook_keeps_of_a_layers_output_is_not_written_to() -> None:
    layer, kept = nn.Linear(5, 7), list[tuple[Tensor, Tensor]]()
    lorica.attach(nn.Sequential(layer)).load(one(make_lora(layer)), name="a")
    x = torch.randn(3, 5)
    handle = register_module_forward_hook(lambda _, __, output: kept.append((output, output.clone())))
    try:
        with torch.no_grad():
            changed = layer(x)
    finally:
        handle.remove()
    assert torch.equal(*kept[0])
    assert not torch.equal(changed, kept[0][1])


class Tied(nn.Module):
    """Two layers with one weight, and one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head, self.inner = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False), nn.Linear(6, 6)
        self.head.weight = self.words.weight
        self.again = self.inner

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.inner(self.words(x))))


def test_a_shared_weight_takes_live_adapters_and_refuses_to_be_fused_into() -> None:
    model, x = Tied(), torch.arange(4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loras = lorica.attach(model)
    loras.load(Adapter({"model": {"words": make_lora(model.words), "inner": make_lora(model.inner)}}), name="a")
    live = model(x)
    with pytest.raises(ModelError, match=r"model\.words: its weight is that of model\.head too.*set\(\)"):
        loras.fuse({"a": 1.0})
    assert torch.equal(model(x), live)
    loras.detach()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_layer_under_two_names_is_found_by_either_but_not_changed_twice() -> None:
    model, x = Tied(), torch.arange(4)
    change = make_lora(model.inner)
    expected = copy.deepcopy(model)
    expected.inner = expected.again = moved(model.inner, [(change, 0.7)])
    loras = lorica.attach(model)
    with pytest.raises(ModelError, match=r"again: another layer of the adapter is for model\.inner too"):
        loras.load(Adapter({"model": {"inner": change, "again": change}}), name="both")
    loras.load(one(change, "again"), name="a", strength=0.7)
    assert relative_error(model(x), expected(x)) < FP32_NOISE
    loras.fuse({"a": 0.7})
    assert relative_error(model(x), expected(x)) < FP32_NOISE


def test_a_model_that_is_one_layer_takes_adapters_at_the_empty_path() -> None:
    model, x = nn.Linear(5, 7), torch.randn(3, 5)
    change = make_lora(model)
    expected = moved(model, [(change, 0.7)])(x)
    loras = lorica.attach(model)
    loras.load(one(change, ""), name="a", strength=0.7)
    assert relative_error(model(x), expected) < FP32_NOISE
    loras.fuse({"a": 0.7})
    assert relative_error(model(x), expected) < FP32_NOISE


@pytest.mark.parametrize("kind", ["Bilinear", "ConvTranspose2d", "LSTM", "BatchNorm2d", "LayerNorm without weight"])
def test_a_layer_of_an_unsupported_type_is_refused_by_its_type(kind: str) -> None:
    made = {
        "Bilinear": lambda: nn.Bilinear(3, 4, 5),
        "ConvTranspose2d": lambda: nn.ConvTranspose2d(3, 4, 2),
        "LSTM": lambda: nn.LSTM(3, 4),
        "BatchNorm2d": lambda: nn.BatchNorm2d(3),
        "LayerNorm without weight": lambda: nn.LayerNorm(3, elementwise_affine=False),
    }
    model = nn.Sequential(made[kind](), nn.Linear(5, 7))
    with pytest.raises(ModelError, match=rf"model\.0: it is a {kind.split()[0]}; adapters act on Linear"):
        lorica.attach(model).load(one(make_lora(model[1])), name="a")


def replaceable() -> tuple[nn.Sequential, lorica.Loras]:
    model = nn.Sequential(nn.Sequential(nn.Linear(5, 7)), nn.Linear(7, 4))
    loras = lorica.attach(model)
    changes = {"0.0": make_lora(model[0][0]), "1": make_lora(model[1])}
    loras.load(Adapter({"model": changes}), name="a")
    return model, loras


@pytest.mark.parametrize("road", ["live", "fused"])
@pytest.mark.parametrize("whole", [True, False], ids=["holder", "layer"])
def test_a_layer_replaced_after_loading_is_an_error_and_detaching_leaves_the_new_one_alone(
    road: str, whole: bool
) -> None:
    model, loras = replaceable()
    x = torch.randn(3, 5)
    old, weight = model[0][0], model[0][0].weight.clone()
    if road == "fused":
        loras.set({})
        before = weight
        loras.load(one(make_lora(model[1]), "1"), name="b")
        loras.fuse({"a": 1.0})
        assert not torch.equal(old.weight, before)
    model(x)
    new = nn.Linear(5, 7)
    if whole:
        model[0] = nn.Sequential(new)
    else:
        model[0][0] = new
    kept = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    if road == "live" or loras.active:
        with pytest.raises(StateError, match=r"the layer model\.0\.0 was replaced, or a module that holds it"):
            model(x)
    loras.detach()
    assert all(torch.equal(new.state_dict()[name], tensor) for name, tensor in kept.items())
    assert torch.equal(old.weight, weight)
    assert not has_bank(old)
    assert not any(module._forward_hooks for module in (*model.modules(), old))


def test_a_replaced_layer_that_is_put_back_acts_again() -> None:
    model, loras = replaceable()
    x = torch.randn(3, 5)
    expected, old = model(x), model[0]
    model[0] = nn.Linear(5, 7)
    with pytest.raises(StateError, match="was replaced"):
        model(x)
    model[0] = old
    assert torch.equal(model(x), expected)
    assert loras.active == ["a"]


@pytest.mark.parametrize("path", ["0", "1"])
def test_a_layer_replaced_before_or_after_another_load_is_noticed(path: str) -> None:
    model, loras = replaceable()
    if path == "0":
        model(torch.randn(3, 5))
        model[0] = nn.Sequential(nn.Linear(5, 7))
    loras.load(one(make_lora(model[1], rank=2), "1"), name="b")
    if path == "1":
        loras.remove("a")
        model(torch.randn(3, 5))  # it is known now where the layers of "b" stand
        loras.load(one(make_lora(model[0][0]), "0.0"), name="c")
        model(torch.randn(3, 5))
        model[0][0] = nn.Linear(5, 7)
    with pytest.raises(StateError, match=r"the layer model\.0\.0 was replaced"):
        model(torch.randn(3, 5))


def test_detaching_turns_what_is_loaded_afterwards_on() -> None:
    model, loras = replaceable()
    adapter, x = loras["a"], torch.randn(3, 5)
    changed = model(x)
    loras.disable()
    loras.detach()
    lorica.attach(model).load(adapter, name="a")
    assert torch.equal(model(x), changed)


def test_clear_takes_all_adapters_off_or_none() -> None:
    model, loras = replaceable()
    x = torch.randn(3, 5)
    loras.load(one(make_lora(model[1]), "1"), name="b")
    loras.fuse({"b": 1.0}, backup="none")
    before = model(x)
    with pytest.raises(StateError, match="backup='none'"):
        loras.clear()
    assert loras.names == ["a", "b"]
    assert torch.equal(model(x), before)


def test_what_the_caller_does_to_a_mapping_of_strengths_afterwards_changes_nothing() -> None:
    model, loras = replaceable()
    x = torch.randn(3, 5)
    given: dict[str, Any] = {"model": {"0.0": 0.2}}
    loras.load(one(make_lora(model[1]), "1"), name="b", strength=given | {"model": {"1": 0.5}})
    loras.set({"a": given})
    before = model(x)
    given["model"]["0.0"] = 5.0
    loras.strengths["a"]["model"]["0.0"] = 6.0  # type: ignore[index, call-overload]
    with loras.using({}):
        pass
    assert torch.equal(model(x), before)
    assert loras.strengths == {"a": {"model": {"0.0": 0.2}}}
