"""Banks under moves, casts, offload hooks and torch.compile."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_submodules
from torch import nn

import lorica
from lorica.runtime.bank.bank import CHILD
from sample_layers import make_lora, one, relative_error

FP32_NOISE = 2e-6  # relative; worst measured 4e-7 over 50 seeds


def make() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7)), torch.randn(3, 5)


def test_strengths_stay_in_float32_under_casts() -> None:
    model, _ = make()
    lorica.attach(model).load(one(make_lora(model[0])), name="a", strength=0.7)
    model.to(torch.bfloat16)
    thin = getattr(model[0], CHILD).content.thin
    assert (thin.down.dtype, thin.up.dtype, thin.strength.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert thin.strength[0, 0].item() == pytest.approx(0.7 * 0.5, rel=1e-7)


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
