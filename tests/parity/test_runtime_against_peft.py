"""The same output as diffusers with PEFT, on tiny models of the real classes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lorica
from lorica.adapters import Adapter, LoRA
from lorica.runtime.model.targets import choose_modules, components_of
from sample_layers import make_lora, relative_error
from tiny_models import TINY, output

FP32_NOISE = 1e-5  # largest absolute difference; worst measured 2e-6 over the three models x 5 seeds


def random_adapter(model: nn.Module, preset: str) -> Adapter:
    """Return an adapter on a preset's layers whose ranks and alphas differ from layer to layer."""
    (component,) = components_of(model)
    layers: dict[str, LoRA] = {}
    for index, path in enumerate(choose_modules(model, preset)):
        layers[path] = make_lora(model.get_submodule(path), rank=2 + index % 3, alpha=1.0 + index % 2)
    return Adapter({component: layers})


def peft_state(adapter: Adapter) -> dict[str, torch.Tensor]:
    """Return the adapter as PEFT keys, the scaling put into ``up``, so that no alpha is needed."""
    state: dict[str, torch.Tensor] = {}
    for _, path, layer in adapter.layers():
        assert isinstance(layer, LoRA)
        state[f"{path}.lora_A.weight"], state[f"{path}.lora_B.weight"] = layer.down.clone(), layer.up * layer.scaling
    return state


@pytest.mark.parametrize("preset", ["attention", "all"])
@pytest.mark.parametrize("name", TINY)
def test_one_adapter_gives_what_peft_gives(name: str, preset: str) -> None:
    model, inputs = TINY[name]()
    base = output(model, inputs)
    adapter = random_adapter(model, preset)
    loras = lorica.attach(model)
    loras.load(adapter, name="a", strength=0.7)
    ours = output(model, inputs)
    loras.detach()
    assert torch.equal(output(model, inputs), base)
    model.load_lora_adapter(peft_state(adapter), prefix=None, adapter_name="a")
    model.set_adapters(["a"], [0.7])
    theirs = output(model, inputs)
    assert (ours - theirs).abs().max() < FP32_NOISE
    assert relative_error(ours, base) > 0.01


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")  # PEFT's own second load
@pytest.mark.parametrize("name", TINY)
def test_two_adapters_at_once_give_what_peft_gives(name: str) -> None:
    model, inputs = TINY[name]()
    first, second = random_adapter(model, "attention"), random_adapter(model, "all-linear")
    loras = lorica.attach(model)
    loras.load(first, name="a")
    loras.load(second, name="b")
    loras.set({"a": 0.6, "b": -0.4})
    ours = output(model, inputs)
    loras.detach()
    model.load_lora_adapter(peft_state(first), prefix=None, adapter_name="a")
    model.load_lora_adapter(peft_state(second), prefix=None, adapter_name="b")
    model.set_adapters(["a", "b"], [0.6, -0.4])
    assert (ours - output(model, inputs)).abs().max() < FP32_NOISE


@pytest.mark.parametrize("name", TINY)
def test_a_whole_model_compiles_in_one_graph_and_strengths_do_not_recompile(name: str) -> None:
    model, inputs = TINY[name]()
    loras = lorica.attach(model)
    loras.load(random_adapter(model, "attention"), name="a", strength=0.7)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert (output(compiled, inputs) - output(model, inputs)).abs().max() < FP32_NOISE
    with torch._dynamo.config.patch(error_on_recompile=True):
        loras.set({"a": -1.5})
        assert (output(compiled, inputs) - output(model, inputs)).abs().max() < FP32_NOISE
    torch.compiler.reset()
