"""No silent no-op: weights that are used without their module, projections that were fused, components replaced."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lorica
from lorica.adapters import Adapter
from lorica.errors import ModelError, StateError
from sample_layers import make_lora, one, relative_error
from tiny_models import TINY, output
from tiny_pipelines import sd_pipeline

FP32_NOISE = 5e-6  # relative; worst measured 1.2e-6 over both models


class Careless(nn.Module):
    """Uses one layer's weight without calling the layer, and reads the dtype of another's that it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.silent, self.asleep = nn.Linear(5, 7), nn.Linear(7, 4), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.called(x.to(self.called.weight.dtype))
        assert self.asleep.weight.dtype == x.dtype  # looked at, not used
        return F.linear(hidden, self.silent.weight, self.silent.bias)


def function_modes() -> list[Any]:
    """Return what observes the operations of torch now."""
    return torch.overrides._get_current_function_mode_stack()


def load_on(model: nn.Module, *paths: str) -> lorica.Loras:
    loras = lorica.attach(model)
    loras.load(Adapter({"model": {path: make_lora(model.get_submodule(path)) for path in paths}}), name="a")
    return loras


def test_a_weight_that_is_used_without_its_module_is_an_error_that_offers_to_fuse() -> None:
    model, x = Careless(), torch.randn(2, 5)
    base = model(x)
    loras = load_on(model, "called", "silent", "asleep")
    for _ in range(2):  # not only the first time
        with pytest.raises(ModelError, match=r"the weight of silent without calling.*loras\.fuse"):
            model(x)
    loras.fuse({"a": 1.0})
    assert not torch.equal(model(x), base)
    loras.detach()
    assert torch.equal(model(x), base)


def test_the_output_projection_of_multihead_attention_is_such_a_weight() -> None:
    model, x = nn.MultiheadAttention(6, 2), torch.randn(3, 1, 6)
    loras = load_on(model, "out_proj")
    with pytest.raises(ModelError, match="the weight of out_proj without calling"):
        model(x, x, x)
    change = loras["a"].components["model"]["out_proj"]
    expected = copy.deepcopy(model)
    with torch.no_grad():
        expected.out_proj.weight += 0.5 * change.delta(model.out_proj.weight)
    expected._forward_hooks.clear()
    loras.fuse({"a": 0.5})
    assert relative_error(model(x, x, x)[0], expected(x, x, x)[0]) < FP32_NOISE


def test_a_layer_that_is_called_or_not_reached_at_all_is_no_error_and_nothing_is_left_to_pay_for() -> None:
    model, x = Careless(), torch.randn(2, 5)
    load_on(model, "called", "asleep")
    model(x)
    assert [len(module._forward_pre_hooks) for module in (model.called, model.asleep)] == [0, 0]
    assert not function_modes()


def test_a_forward_that_fails_leaves_no_observer_behind() -> None:
    model = Careless()
    load_on(model, "silent")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.randn(2, 3))
    assert not function_modes()
    assert not model.silent._forward_pre_hooks
    with pytest.raises(ModelError, match="silent"):
        model(torch.randn(2, 5))


def test_detaching_leaves_no_hook_on_the_component() -> None:
    model = Careless()
    loras = load_on(model, "called")
    model(torch.randn(2, 5))
    loras.detach()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


IN_UNET = "attentions.0.transformer_blocks.0"
ATTENTION = {
    "sd15": [f"down_blocks.1.{IN_UNET}.attn1", f"mid_block.{IN_UNET}.attn2"],
    "flux": ["transformer_blocks.0.attn", "single_transformer_blocks.1.attn"],
}  # fmt: skip


def fused_case(name: str) -> tuple[nn.Module, Any, Adapter, str]:
    """A model, an input, and an adapter for parts of its attentions' projections: never for all of them."""
    model, inputs = TINY[name]()
    paths = [f"{path}.{leaf}" for path in ATTENTION[name] for leaf in ("to_q", "to_v")]
    paths += ["transformer_blocks.0.attn.add_k_proj"] if name == "flux" else []
    torch.manual_seed(2)
    layers = {path: make_lora(model.get_submodule(path), rank=2 + i) for i, path in enumerate(paths)}
    component = "unet" if name == "sd15" else "transformer"
    return model, inputs, Adapter({component: layers}), component


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("road", ["live", "fused"])
def test_adapters_for_the_parts_act_on_the_rows_of_fused_projections(name: str, road: str) -> None:
    model, inputs, adapter, _ = fused_case(name)
    loras = lorica.attach(model)
    base = output(model, inputs)
    loras.load(adapter, name="a", strength=0.7)
    expected = output(model, inputs)
    loras.detach()
    model.fuse_qkv_projections()
    loras.load(adapter, name="a", strength=0.7)
    if road == "fused":
        loras.fuse({"a": 0.7})
    assert relative_error(output(model, inputs), expected) < FP32_NOISE
    assert relative_error(expected, base) > 100 * FP32_NOISE  # or there would be nothing to see
    loras.detach()
    assert relative_error(output(model, inputs), base) < FP32_NOISE


@pytest.mark.parametrize("name", ATTENTION)
def test_fusing_projections_after_the_load_is_an_error_at_the_next_forward_or_change(name: str) -> None:
    model, inputs, adapter, component = fused_case(name)
    loras = lorica.attach(model)
    loras.load(adapter, name="a", strength=0.7)
    expected = output(model, inputs)
    model.fuse_qkv_projections()
    message = rf"projections of {component}\..* were fused after .*unfuse_qkv_projections"
    with pytest.raises(StateError, match=message):
        output(model, inputs)
    with pytest.raises(StateError, match=message):
        loras.remove("a")
    model.unfuse_qkv_projections()
    assert torch.equal(output(model, inputs), expected)


def test_projections_of_what_was_fused_into_the_weights_are_looked_at_too() -> None:
    model, _, adapter, component = fused_case(next(iter(ATTENTION)))
    loras = lorica.attach(model)
    loras.load(adapter, name="a", strength=0.0)
    loras.fuse({"a": 0.7})
    model.fuse_qkv_projections()
    with pytest.raises(StateError, match=rf"projections of {component}\..* were fused after"):
        loras.unfuse()
    model.unfuse_qkv_projections()
    loras.unfuse()


@pytest.mark.parametrize("name", ATTENTION)
def test_taking_projections_apart_after_the_load_is_an_error_too(name: str) -> None:
    model, inputs, adapter, _ = fused_case(name)
    model.fuse_qkv_projections()
    loras = lorica.attach(model)
    loras.load(adapter, name="a")
    output(model, inputs)
    model.unfuse_qkv_projections()
    with pytest.raises(StateError, match="were taken apart after"):
        output(model, inputs)


def test_a_component_that_was_replaced_is_an_error_at_the_next_call() -> None:
    pipe = sd_pipeline()
    pipe.set_progress_bar_config(disable=True)
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    loras = lorica.attach(pipe)
    loras.load(Adapter({"unet": {path: make_lora(pipe.unet.get_submodule(path))}}), name="a")
    words = torch.randn(1, 7, 24)

    def call() -> Any:
        return pipe(prompt_embeds=words, guidance_scale=1.0, num_inference_steps=1, output_type="latent")

    call()
    old, pipe.unet = pipe.unet, copy.deepcopy(pipe.unet)
    with pytest.raises(StateError, match="'unet' of this StableDiffusionPipeline was replaced"):
        call()
    with pytest.raises(StateError, match="replaced"):
        loras.set({"a": 0.5})
    pipe.unet = torch.compile(old, backend="eager")  # the same module in another coat
    loras.set({"a": 0.5})
    pipe.text_encoder = None  # taken out to save memory: nothing is left to act on
    loras.set({"a": 0.4})


def test_attaching_again_before_the_first_load_gives_the_same_adapters() -> None:
    layer = nn.Linear(5, 7)
    model, part = nn.Sequential(layer), nn.Sequential(layer)
    first = lorica.attach(model)
    assert lorica.attach(model) is first
    other = lorica.attach(part)
    assert other is not first
    first.load(one(make_lora(layer)), name="a")
    del first
    assert lorica.attach(model).names == ["a"]


def test_what_was_attached_before_somebody_else_loaded_is_refused() -> None:
    pipe = sd_pipeline()
    whole, unet = lorica.attach(pipe), lorica.attach(pipe.unet)
    adapter = Adapter({"unet": {"conv_in": make_lora(pipe.unet.conv_in)}})
    whole.load(adapter, name="a")
    with pytest.raises(StateError, match="already belongs"):
        unet.load(adapter, name="b")
    assert (whole.names, unet.names) == (["a"], [])


def test_only_the_first_forward_is_observed_also_after_a_new_strength() -> None:
    model, x = Careless(), torch.randn(2, 5)
    observers: list[int] = []
    model.called.register_forward_hook(lambda *_: observers.append(len(function_modes())))
    loras = load_on(model, "called", "asleep")
    for act in (lambda: None, lambda: None, lambda: loras.set({"a": 0.5}), loras.disable, loras.enable):
        act()
        model(x)
    assert observers == [1, 0, 0, 0, 0]


class Blocks(nn.Module):
    """A model of two blocks, as those whose blocks are compiled one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(5, 5), nn.ReLU()) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("wrapped", [True, False], ids=["torch.compile(block)", "block.compile()"])
def test_blocks_compiled_one_by_one_compile_nothing_again_when_adapters_come_and_go(wrapped: bool) -> None:
    model, x = Blocks(), torch.randn(2, 5)
    for index, block in enumerate(model.blocks):
        if wrapped:
            model.blocks[index] = torch.compile(block, backend="eager", fullgraph=True)
        else:
            block.compile(backend="eager", fullgraph=True)
    loras = lorica.attach(model)
    loras.reserve(rank=4)
    layers = {path: make_lora(model.get_submodule(path)) for path in loras.target().components["model"]}
    with torch.no_grad():
        base = model(x)
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert torch.equal(model(x), base)
            for _ in range(2):
                loras.load(Adapter({"model": layers}), name="a")
                assert relative_error(model(x), base) > 1e-3
                loras.remove("a")
                assert relative_error(model(x), base) < FP32_NOISE
