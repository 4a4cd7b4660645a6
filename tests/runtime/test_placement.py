"""Adapters under moves, casts, offload hooks and torch.compile."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_submodules
from torch import nn

import lorica
from lorica.adapters import LoRA
from sample_kinds import make_dora
from sample_layers import make_lora, moved, one, relative_error

FP32_NOISE = 2e-6  # relative; worst measured 4e-7 over 50 seeds


def make() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7)), torch.randn(3, 5)


def rounded(change: LoRA) -> LoRA:
    """Return a LoRA whose tensors have been in bfloat16."""
    return change.map(lambda tensor: tensor.to(torch.bfloat16).float())


def test_strengths_stay_in_float32_where_factors_are_cast() -> None:
    model, x = make()
    change = make_lora(model[0])
    lorica.attach(model).load(one(change), name="a", strength=0.7)  # which bfloat16 has not
    model.to(torch.bfloat16).to(torch.float32)
    plain = nn.Linear(5, 7)
    plain.load_state_dict(model[0].state_dict())
    assert relative_error(model(x), moved(plain, [(rounded(change), 0.7)])(x)) < FP32_NOISE


def test_what_was_cast_stays_as_it_is_when_another_is_loaded() -> None:
    model, x = make()
    change = make_lora(model[0])
    loras = lorica.attach(model)
    loras.load(one(change), name="a", strength=0.7)
    model.to(torch.bfloat16).to(torch.float32)
    before = model(x)
    loras.load(one(make_lora(model[0], rank=40)), name="b", strength=0.0)
    loras.set({"a": 0.7, "b": 1.0})  # more memory than there was
    loras.set({"a": 0.7})
    assert torch.equal(model(x), before)


def test_casting_to_float8_and_back_leaves_an_adapter_as_it_is() -> None:
    model, x = make()
    change = make_lora(model[0])
    lorica.attach(model).load(one(change), name="a")
    model.to(torch.float8_e4m3fn).to(torch.float32)  # as layerwise casting does around every forward
    plain = nn.Linear(5, 7)
    plain.load_state_dict(model[0].state_dict())
    assert relative_error(model(x), moved(plain, [(change, 1.0)])(x)) < FP32_NOISE


def test_strengths_set_after_a_move_or_a_cast_act() -> None:
    model, x = make()
    change = make_lora(model[0])
    loras = lorica.attach(model)
    loras.load(one(change), name="a")
    model.to(torch.float64)
    plain = nn.Linear(5, 7).double()
    plain.load_state_dict(model[0].state_dict())
    for strength in (0.3, -1.0):
        loras.set({"a": strength})
        expected = moved(plain, [(change, strength)])(x.double())
        assert relative_error(model(x.double()), expected) < FP32_NOISE
    model.to("meta")  # as to any other device
    loras.set({"a": 0.3})
    assert model(x.double().to("meta")).shape == (3, 7)


def test_a_weight_that_an_offload_hook_keeps_is_fetched() -> None:
    model, x = make()
    change = make_dora(model[0])
    expected = moved(model[0], [(change, 0.7)])(x)
    cpu_offload(model, execution_device=torch.device("cpu"))
    loras = lorica.attach(model)
    loras.load(one(change), name="a", strength=0.7)
    assert relative_error(model(x), expected) < FP32_NOISE
    loras.detach()
    remove_hook_from_submodules(model)


def test_offloaded_buffers_do_not_take_the_strengths_away() -> None:
    model, x = make()
    change = make_lora(model[0])
    expected = moved(model[0], [(change, 0.4)])(x)
    loras = lorica.attach(model)
    loras.load(one(change), name="a")
    cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)
    loras.set({"a": 0.4})
    assert relative_error(model(x), expected) < FP32_NOISE
    remove_hook_from_submodules(model)


@pytest.mark.parametrize("first", ["hooks", "adapter"])
def test_cpu_offload_hooks_before_or_after_keep_the_adapter_effective(first: str) -> None:
    model, x = make()
    change = make_lora(model[0])
    reference = nn.Sequential(nn.Linear(5, 7))
    reference.load_state_dict(model.state_dict())
    lorica.attach(reference).load(one(change), name="a", strength=0.7)
    loras = lorica.attach(model)
    if first == "hooks":
        cpu_offload(model, execution_device=torch.device("cpu"))
        loras.load(one(change), name="a", strength=0.7)
    else:
        loras.load(one(change), name="a", strength=0.7)
        cpu_offload(model, execution_device=torch.device("cpu"))
    assert model[0].weight.device.type == "meta"  # or the hooks would not be there at all
    for _ in range(2):
        assert torch.equal(model(x), reference(x))
    loras.set({"a": -1.0})
    assert not torch.equal(model(x), reference(x))
    loras.detach()
    remove_hook_from_submodules(model)


def test_a_compiled_model_keeps_its_graph_when_strengths_change() -> None:
    model, x = make()
    loras = lorica.attach(model)
    loras.load(one(make_lora(model[0])), name="a", strength=0.7)
    loras.load(one(make_lora(model[0], rank=2)), name="b", strength=-0.2)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert relative_error(compiled(x), model(x)) < FP32_NOISE
        with torch._dynamo.config.patch(error_on_recompile=True):
            for strengths in ({"a": 0.1}, {"a": 1.0, "b": 2.0}, {}):
                loras.set(strengths)
                assert relative_error(compiled(x), model(x)) < FP32_NOISE


def test_an_adapter_loads_into_a_compiled_model() -> None:
    model, x = make()
    compiled = torch.compile(model, backend="aot_eager")
    base = compiled(x)
    lorica.attach(compiled).load(one(make_lora(model[0])), name="a")
    assert not torch.equal(compiled(x), base)
    assert relative_error(compiled(x), model(x)) < FP32_NOISE


def test_state_dict_and_parameters_are_those_of_the_base() -> None:
    model, _ = make()
    lorica.attach(model).load(one(make_lora(model[0])), name="a")
    assert list(model.state_dict()) == ["0.weight", "0.bias"]
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias"]
