"""Files that go between Lorica and stock diffusers with PEFT, in both directions, on tiny pipelines."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

import lorica
from lorica.adapters import Adapter, LoRA
from lorica.models import Target
from lorica.runtime.model.targets import components_of, target_of
from sample_layers import make_lora, relative_error
from tiny_models import flux, output, sd15, sdxl
from tiny_pipelines import sd_pipeline, sdxl_pipeline, text_states

FP32_NOISE = 2e-5  # relative; worst measured 2e-6
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")
LINEAR = (*ATTENTION, "fc1", "fc2", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "time_emb_proj")
EVERYTHING = (*LINEAR, "conv_in", "conv_out", "conv", "conv1", "conv2", "conv_shortcut", "linear_1", "linear_2")
CHOICES = {
    "attention": ATTENTION,
    "linear": LINEAR,
    "everything": EVERYTHING,
    "mlp of the text encoder": ("fc1", "to_k"),
}
PIPELINES: dict[str, Callable[[], Any]] = {"sd": sd_pipeline, "sdxl": sdxl_pipeline}
PEFT_CHATTER = "ignore:While injecting the PEFT adapters"


def mixed_adapter(pipe: Any, endings: tuple[str, ...]) -> Adapter:
    """Return an adapter whose ranks and alphas differ from module to module, alpha / rank never 1."""
    components: dict[str, dict[str, LoRA]] = {}
    place = 0
    for name, part in components_of(pipe).items():
        for path, module in part.named_modules():
            if any(f".{path}".endswith(f".{ending}") for ending in endings) and hasattr(module, "weight"):
                place += 1
                layer = make_lora(module, rank=2 + place % 3, alpha=(0.5, 3.0, 1.25, 7.0)[place % 4])
                components.setdefault(name, {})[path] = layer
    return Adapter(components)


def effective_scalings(part: nn.Module) -> dict[str, float]:
    """Return what PEFT multiplies each layer's product by."""
    return {
        path: layer.scaling["a"]
        for path, layer in part.named_modules()
        if isinstance(layer, LoraLayer) and "a" in layer.scaling
    }


def changed_weights(part: nn.Module, layers: Mapping[str, Any]) -> None:
    """Write each ``W + delta(W)`` into the weights of a component, by hand."""
    with torch.no_grad():
        for path, layer in layers.items():
            module = part.get_submodule(path)
            assert isinstance(module.weight, Tensor)
            module.weight += layer.delta(module.weight)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", PIPELINES)
def test_stock_diffusers_has_no_scaling_left_to_give(family: str, choice: str, tmp_path: Path) -> None:
    pipe = PIPELINES[family]()
    adapter = mixed_adapter(pipe, CHOICES[choice])
    lorica.write(adapter, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.load_lora_weights(tmp_path, adapter_name="a")
    for name, layers in adapter.components.items():
        assert any(layer.alpha != layer.rank for layer in layers.values())
        assert effective_scalings(getattr(pipe, name)) == dict.fromkeys(layers, 1.0)


def test_an_adapter_in_the_older_spelling_of_the_text_encoder_has_none_either(tmp_path: Path) -> None:
    pipe = sd_pipeline()
    live = mixed_adapter(pipe, LINEAR).components["text_encoder"]
    older = {f"text_model.{path}": layer for path, layer in live.items()}
    lorica.write(Adapter({"text_encoder": older}), tmp_path)
    found: Any = pipe.lora_state_dict(tmp_path, return_lora_metadata=True)
    state, alphas, metadata = found
    pipe.load_lora_into_text_encoder(state, alphas, pipe.text_encoder, adapter_name="a", metadata=metadata)
    assert effective_scalings(pipe.text_encoder) == dict.fromkeys(live, 1.0)


@pytest.mark.parametrize("choice", CHOICES)
def test_stock_diffusers_gives_the_output_of_the_change_by_hand(choice: str, tmp_path: Path) -> None:
    _, inputs = sd15()
    pipe, twin = sd_pipeline(), sd_pipeline()
    adapter = mixed_adapter(pipe, CHOICES[choice])
    base = output(pipe.unet, inputs), text_states(pipe.text_encoder)
    pipe.load_lora_weights(lorica.write(adapter, tmp_path).parent, adapter_name="a")
    changed_weights(twin.unet, adapter.components["unet"])
    changed_weights(twin.text_encoder, adapter.components["text_encoder"])
    assert relative_error(output(pipe.unet, inputs), output(twin.unet, inputs)) < FP32_NOISE
    assert relative_error(text_states(pipe.text_encoder), text_states(twin.text_encoder)) < FP32_NOISE
    assert relative_error(output(pipe.unet, inputs), base[0]) > 0.01
    assert relative_error(text_states(pipe.text_encoder), base[1]) > 0.01


def test_patterns_of_a_short_path_leave_longer_ones_alone(tmp_path: Path) -> None:
    model, inputs = flux()
    twin, _ = flux()
    modules = dict(model.named_modules())
    paths = ["proj_out", *(f"single_transformer_blocks.{index}.proj_out" for index in (0, 1)), "x_embedder"]
    layers = {path: make_lora(modules[path], rank=2 + place, alpha=0.5 * 3**place) for place, path in enumerate(paths)}
    file = lorica.write(Adapter({"transformer": layers}), tmp_path)
    model.load_lora_adapter(tmp_path, prefix="transformer", adapter_name="a", use_safetensors=True)
    assert effective_scalings(model) == dict.fromkeys(layers, 1.0)
    changed_weights(twin, layers)
    assert relative_error(output(model, inputs), output(twin, inputs)) < FP32_NOISE
    assert lorica.read(file) == Adapter({"transformer": layers})


def trained_by_peft(pipe: Any, config: LoraConfig, text_config: LoraConfig) -> None:
    pipe.unet.add_adapter(config, "a")
    pipe.text_encoder.add_adapter(text_config, "a")
    with torch.no_grad():
        for part in (pipe.unet, pipe.text_encoder):
            for name, weight in part.named_parameters():
                if ".lora_B." in name:
                    weight.normal_()


def peft_deltas(part: nn.Module) -> dict[str, Tensor]:
    layers = {path: layer for path, layer in part.named_modules() if isinstance(layer, LoraLayer)}
    return {path: layer.get_delta_weight("a").detach() for path, layer in layers.items()}


CONFIGS = {
    "plain": LoraConfig(r=3, lora_alpha=3, target_modules=["to_k", "to_q"]),
    "alpha": LoraConfig(r=3, lora_alpha=5, target_modules=["to_k", "to_q", "conv1"]),
    "patterns": LoraConfig(
        r=3, lora_alpha=5, target_modules=["to_k", "to_q", "conv1", "proj_in"],
        rank_pattern={"to_k": 4, "^mid_block.attentions.0.proj_in": 2},
        alpha_pattern={"attn1.to_k": 1.5, "to_k": 2.5, r".*resnets\.0\.conv1": 9, "mid_block.*": 11},
    ),
    "rank-stabilised": LoraConfig(r=3, lora_alpha=5, target_modules=["to_k", "to_q"], use_rslora=True),
}  # fmt: skip


@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_file_of_save_lora_weights_is_read_at_peft_strength(name: str, with_target: bool, tmp_path: Path) -> None:
    pipe = sd_pipeline()
    target = target_of(pipe)
    text = LoraConfig(
        r=2, lora_alpha=7, target_modules=["q_proj", "fc1"], alpha_pattern={"encoder.layers.1.mlp.fc1": 3}
    )
    trained_by_peft(pipe, CONFIGS[name], text)
    parts = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    pipe.save_lora_weights(
        tmp_path,
        **{
            f"{part}_lora_layers": get_peft_model_state_dict(module, adapter_name="a") for part, module in parts.items()
        },
        **{f"{part}_lora_adapter_metadata": module.peft_config["a"].to_dict() for part, module in parts.items()},
    )
    adapter = lorica.read(tmp_path, target=target if with_target else None)
    again = sd_pipeline()
    again.load_lora_weights(tmp_path, adapter_name="a")
    for part in parts:
        expected = peft_deltas(getattr(again, part))  # as loaded: diffusers sorts the patterns when it saves
        found = {path.removeprefix("text_model."): layer for path, layer in adapter.components[part].items()}
        assert found.keys() == expected.keys()
        for path, delta in expected.items():
            assert relative_error(found[path].delta(delta), delta) < FP32_NOISE, path


def test_a_file_of_save_lora_weights_without_metadata_has_its_rank_for_alpha(tmp_path: Path) -> None:
    pipe = sd_pipeline()
    pipe.unet.add_adapter(CONFIGS["patterns"], "a")
    pipe.save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(pipe.unet, adapter_name="a"))
    adapter = lorica.read(tmp_path, target=target_of(sd_pipeline()))
    assert {layer.alpha / layer.rank for _, _, layer in adapter.layers()} == {1.0}
    assert {layer.rank for _, _, layer in adapter.layers()} == {2, 3, 4}


def test_a_file_of_save_lora_adapter_which_names_no_component_is_read(tmp_path: Path) -> None:
    unet, _ = sdxl()
    target = Target("tiny", {"unet": target_of(unet).components["unet"]})
    unet.add_adapter(CONFIGS["alpha"], "a")
    unet.save_lora_adapter(tmp_path, adapter_name="a")
    adapter = lorica.read(tmp_path, target=target)
    assert adapter.components.keys() == {"unet"}
    assert {layer.alpha for _, _, layer in adapter.layers()} == {5.0}
