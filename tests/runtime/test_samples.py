"""A set of adapters for each sample: equal to running each alone, for every type of layer and every way of batching."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lorica
from lorica.adapters import Adapter
from lorica.errors import ConfigError, StateError, UnknownNameError
from sample_kinds import SAMPLES
from sample_layers import LAYERS, NORMS, make_lora, one, relative_error, sample_input
from tiny_models import TINY, output

FP32_NOISE = 1e-5  # absolute, on outputs of size 1; worst measured 1.4e-6
LAST = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.RMSNorm)  # whose points stand before the features
SETS = [{"a": 0.7}, {"b": -1.3, "a": 0.2}, {}]


def alone(loras: Any, model: nn.Module, x: Tensor) -> Tensor:
    """Return what each row of ``x`` gives with its own set, run by itself."""
    rows = []
    for index, row in enumerate(x):
        loras.set(SETS[index])
        rows.append(model(row[None]))
    return torch.cat(rows)


@pytest.mark.parametrize("points", [1, 20], ids=["few points", "many points"])
@pytest.mark.parametrize("name", LAYERS | NORMS)
def test_a_batch_gives_what_each_sample_gives_alone(name: str, points: int) -> None:
    for sample, (is_for, make) in SAMPLES.items():
        torch.manual_seed(0)
        layer = (LAYERS | NORMS)[name]()
        if not is_for(layer):
            continue
        model, x = nn.Sequential(layer), torch.cat([sample_input(layer), sample_input(layer)[:1]])
        x = torch.cat([x] * points, dim=1 if isinstance(layer, LAST) else 2)
        loras = lorica.attach(model)
        loras.load(one(make(layer)), name="a")
        loras.load(one(make_lora(layer, rank=2) if layer.weight.ndim > 1 else SAMPLES["norm"][1](layer)), name="b")
        expected = alone(loras, model, x)
        loras.per_sample(SETS)
        with torch.no_grad():
            got = model(x)
        assert relative_error(got, expected) < FP32_NOISE, sample
        assert relative_error(model(x), expected) < FP32_NOISE, sample  # with gradients: not in place
        loras.detach()


@pytest.mark.parametrize("name", TINY)
def test_a_whole_model_gives_what_each_sample_gives_alone(name: str) -> None:
    model, inputs = TINY[name]()
    layers = [path for path, layer in model.named_modules() if type(layer) in (nn.Linear, nn.Conv2d)]
    loras = lorica.attach(model)
    component = next(iter(loras.components))
    for seed, adapter in enumerate(("a", "b")):
        torch.manual_seed(seed)
        changes = {path: make_lora(model.get_submodule(path), rank=2 + seed) for path in layers}
        loras.load(Adapter({component: changes}), name=adapter, strength=0.1)
    separate = []
    for index, strengths in enumerate(({"a": 0.3}, {"b": 0.2})):
        loras.set(strengths)
        separate.append(output(model, inputs)[index])
    loras.per_sample([{"a": 0.3}, {"b": 0.2}])
    assert torch.allclose(output(model, inputs), torch.stack(separate), atol=FP32_NOISE, rtol=0)
    assert not torch.allclose(separate[0], output(model, inputs)[1], atol=1e-2)


@pytest.mark.parametrize("grad", [True, False])
def test_a_batch_that_is_a_multiple_repeats_halves_first_then_each_row(grad: bool) -> None:
    model, x = nn.Sequential(nn.Linear(5, 7)), torch.randn(1, 5)
    loras, change = lorica.attach(model), make_lora(model[0])
    loras.load(one(change), name="a", strength=0.0)
    base, whole = model(x), x @ change.delta(model[0].weight).T

    def strengths_of(batch: int, guidance: int | None = None) -> list[int]:
        loras.per_sample([{"a": 1.0}, {"a": 2.0}, {"a": 3.0}], guidance=guidance)
        with torch.set_grad_enabled(grad):
            added = model(x.expand(batch, 5)) - base
        return [round((row / whole[0]).mean().item(), 3) for row in added]

    assert strengths_of(3) == [1, 2, 3]
    assert strengths_of(6) == [1, 2, 3, 1, 2, 3]  # guidance
    assert strengths_of(9) == [1, 1, 1, 2, 2, 2, 3, 3, 3]  # three pictures a prompt, or frames
    assert strengths_of(12) == [1, 1, 2, 2, 3, 3, 1, 1, 2, 2, 3, 3]  # guidance and two pictures a prompt
    assert strengths_of(6, guidance=1) == [1, 1, 2, 2, 3, 3]
    assert strengths_of(9, guidance=3) == [1, 2, 3, 1, 2, 3, 1, 2, 3]
    assert strengths_of(3, guidance=2) == [1, 2, 3]  # a text encoder runs without guidance
    for batch in (1, 4, 7):
        with pytest.raises(StateError, match=rf"3 samples.*batch of {batch}"):
            strengths_of(batch)


def make() -> tuple[nn.Sequential, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7))
    loras = lorica.attach(model)
    loras.load(one(make_lora(model[0])), name="a", strength=0.4)
    loras.load(one(make_lora(model[0], rank=2)), name="b", strength=0.2)
    return model, loras


def test_whole_changes_follow_a_batch_that_is_a_multiple() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7))
    change = SAMPLES["full"][1](model[0])
    loras = lorica.attach(model)
    loras.load(one(change), name="a")
    x = torch.randn(4, 5)
    loras.set({"a": 0.7})
    changed = model(x)
    loras.set({})
    base = model(x)
    loras.per_sample([{"a": 0.7}, {}])
    assert torch.allclose(model(x), torch.stack([changed[0], base[1], changed[2], base[3]]), atol=FP32_NOISE, rtol=0)


def test_per_sample_holds_until_the_next_set_and_using_restores_it() -> None:
    model, loras = make()
    x = torch.randn(3, 5)
    loras.per_sample(SETS)
    mixed = model(x)
    assert (loras.active, loras.strengths) == (["a", "b"], {})
    with loras.using({"a": 1.0}):
        assert not torch.equal(model(x), mixed)
        assert model(x[:2]).shape == (2, 7)
    assert torch.equal(model(x), mixed)
    loras.disable()
    assert torch.equal(model(x), nn.functional.linear(x, model[0].weight, model[0].bias))
    loras.enable()
    assert torch.equal(model(x), mixed)
    loras.set({"a": 0.4})
    assert loras.strengths == {"a": 0.4}
    assert model(x[:2]).shape == (2, 7)


def test_removing_and_fusing_take_an_adapter_out_of_every_sample() -> None:
    model, loras = make()
    x = torch.randn(3, 5)
    loras.per_sample([{"a": 0.7}, {"a": 0.2}, {}])
    without = model(x)
    loras.per_sample(SETS)
    loras.remove("b")
    assert torch.equal(model(x), without)
    loras.fuse({"a": 1.0})
    assert loras.active == []


def test_using_restores_each_sample_what_is_left_of_its_own() -> None:
    model, loras = make()
    x = torch.randn(3, 5)
    loras.per_sample([{"a": 0.7}, {"a": 0.2}, {}])
    without = model(x)
    loras.per_sample(SETS, guidance=1)
    with loras.using({"b": 1.0}):
        loras.remove("b")
    assert torch.equal(model(x), without)
    assert loras.active == ["a"]
    with loras.using({}):
        loras.fuse({"a": 1.0})
    assert (loras.active, loras.fused) == ([], {"a": 1.0})


def test_using_restores_strengths_in_the_layers_of_one_that_was_replaced() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 4)), torch.randn(3, 5)
    narrow = one(make_lora(model[0]))
    wide = Adapter({"model": {"0": make_lora(model[0]), "1": make_lora(model[1], rank=2)}})
    loras = lorica.attach(model)
    loras.load(wide, name="a", strength=0.7)
    expected = model(x)
    loras.load(narrow, name="a", strength=0.7, replace=True)
    with loras.using({}):
        loras.load(wide, name="a", strength=0.1, replace=True)
    assert loras.strengths == {"a": 0.7}
    assert torch.equal(model(x), expected)


def test_what_cannot_be_set_for_samples_is_refused_and_nothing_changes() -> None:
    model, loras = make()
    x = torch.randn(3, 5)
    before = model(x)
    with pytest.raises(ConfigError, match="got 0"):
        loras.per_sample([])
    with pytest.raises(UnknownNameError, match="'c'"):
        loras.per_sample([{"a": 1.0}, {"c": 1.0}])
    with pytest.raises(ConfigError, match="guidance 0"):
        loras.per_sample([{"a": 1.0}], guidance=0)
    assert torch.equal(model(x), before)
    loras.per_sample(SETS)
    with pytest.raises(StateError, match="Call set"):
        loras.load(one(make_lora(model[0])), name="c")


def test_samples_in_a_compiled_model_change_without_compiling_again() -> None:
    model, loras = make()
    x = torch.randn(6, 5)
    loras.per_sample(SETS)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert relative_error(compiled(x), model(x)) < FP32_NOISE
        with torch._dynamo.config.patch(error_on_recompile=True):
            loras.per_sample([{}, {"a": 0.1}, {"b": 3.0}])
            assert relative_error(compiled(x), model(x)) < FP32_NOISE
