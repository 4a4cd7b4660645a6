"""Files of foreign dialects, loaded by stock diffusers and by us: every weight gets the same change."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, LTXPipeline, QwenImagePipeline, WanPipeline
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

import lorica
from lorica.adapters import Adapter, AdapterLayer, DoRA, LoRA
from lorica.formats import FORMATS
from lorica.models import Target
from lorica.runtime.model.targets import target_of
from sample_layers import make_lora, relative_error
from tiny_models import flux
from tiny_pipelines import sd_pipeline, sdxl_pipeline
from tiny_transformers import ltx, qwen_image, wan

FP32_NOISE = 2e-5  # relative; worst measured 3e-6
PEFT_CHATTER = "ignore::UserWarning"


def peft_deltas(part: nn.Module) -> dict[str, Tensor]:
    layers = {path: layer for path, layer in part.named_modules() if isinstance(layer, LoraLayer)}
    return {path: layer.get_delta_weight("a").detach() for path, layer in layers.items()}


def adapter_on(part: nn.Module, component: str, endings: tuple[str, ...]) -> Adapter:
    layers: dict[str, AdapterLayer] = {}
    for path, module in part.named_modules():
        if path.endswith(endings) and hasattr(module, "weight"):
            layers[path] = make_lora(module, rank=2, alpha=3.0)
    return Adapter({component: layers})


def assert_same_changes(part: nn.Module, layers: Any) -> None:
    """Hold what stock diffusers has loaded to the layers that we read."""
    found = peft_deltas(part)
    assert found.keys() == set(layers)
    for path, delta in found.items():
        assert relative_error(layers[path].delta(delta), delta) < FP32_NOISE, path


SDXL = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")


@pytest.mark.filterwarnings(PEFT_CHATTER)
@pytest.mark.parametrize("name", ["kohya", "onetrainer"])
def test_a_flat_file_for_sdxl_changes_what_stock_diffusers_changes(name: str) -> None:
    pipe: Any = sdxl_pipeline()
    adapter = adapter_on(pipe.unet, "unet", SDXL)
    tensors, _ = FORMATS[name].compose(adapter, target_of(pipe))
    starts = {key.split("_")[2] for key in tensors}
    assert starts == ({"input", "middle", "output"} if name == "kohya" else {"down", "mid", "up"})
    read = lorica.read(tensors, target=target_of(pipe))
    assert read == adapter
    pipe.load_lora_weights({key: tensor.clone() for key, tensor in tensors.items()}, adapter_name="a")
    assert_same_changes(pipe.unet, read.components["unet"])


@pytest.mark.filterwarnings(PEFT_CHATTER)
def test_a_flat_file_for_stable_diffusion_changes_what_stock_diffusers_changes() -> None:
    pipe: Any = sd_pipeline()
    target = target_of(pipe)
    adapter = adapter_on(pipe.unet, "unet", (*SDXL, "conv1", "conv2", "time_emb_proj"))
    tensors, _ = FORMATS["kohya"].compose(adapter, target)
    pipe.load_lora_weights({key: tensor.clone() for key, tensor in tensors.items()}, adapter_name="a")
    assert_same_changes(pipe.unet, lorica.read(tensors, target=target).components["unet"])


def flux_target() -> tuple[nn.Module, Target]:
    model, _ = flux()
    return model, Target("tiny", {"transformer": target_of(model).components["transformer"]})


def fused_file(style: str) -> dict[str, Tensor]:
    """Return a file for the tiny Flux in which every fused weight is one LoRA.

    Without ``linear1``: stock diffusers cuts it at the sizes of the published model, whatever the model's are.
    """
    _, target = flux_target()
    names = FORMATS["comfyui"].table(target)  # type: ignore[attr-defined]
    shapes = target.components["transformer"]
    wanted = ("attn.qkv", "attn.proj", "mlp.0", "mlp.2", "mod.lin", "linear2", "modulation.lin")
    tensors: dict[str, Tensor] = {}
    for name, place in names.items():
        if not name.startswith(("diffusion_model.double_blocks", "diffusion_model.single_blocks")) or not name.endswith(
            wanted
        ):
            continue
        out, width = place.shape_in(shapes)
        flat = name.replace("diffusion_model.", "lora_unet_").replace(".", "_") if style == "kohya" else name
        down, up = (
            (".lora_down.weight", ".lora_up.weight") if style == "kohya" else (".lora_A.weight", ".lora_B.weight")
        )
        tensors |= {flat + down: torch.randn(2, width), flat + up: torch.randn(out, 2)}
        if style == "kohya":
            tensors[f"{flat}.alpha"] = torch.tensor(1.5)
    return tensors


@pytest.mark.filterwarnings(PEFT_CHATTER)
def test_a_kohya_file_for_flux_changes_what_stock_diffusers_changes() -> None:
    model, target = flux_target()
    tensors = fused_file("kohya")
    read = lorica.read(tensors, target=target)
    assert read.report is not None
    assert not read.report.unused
    state, alphas = FluxPipeline.lora_state_dict(dict(tensors), return_alphas=True)
    FluxPipeline.load_lora_into_transformer(state, alphas, model, adapter_name="a")
    assert_same_changes(model, read.components["transformer"])


@pytest.mark.filterwarnings(PEFT_CHATTER)
def test_a_file_of_xlabs_changes_what_stock_diffusers_changes() -> None:
    model, target = flux_target()
    shapes = target.components["transformer"]
    width = shapes["transformer_blocks.0.attn.to_q"][1]
    tensors: dict[str, Tensor] = {}
    for half in (1, 2):
        for part, out in (("qkv", 3 * width), ("proj", width)):
            name = f"double_blocks.0.processor.{part}_lora{half}"
            tensors |= {f"{name}.down.weight": torch.randn(2, width), f"{name}.up.weight": torch.randn(out, 2)}
    read = lorica.read(tensors, target=target)
    state, alphas = FluxPipeline.lora_state_dict(dict(tensors), return_alphas=True)
    FluxPipeline.load_lora_into_transformer(state, alphas, model, adapter_name="a")
    assert_same_changes(model, read.components["transformer"])


@pytest.mark.filterwarnings(PEFT_CHATTER)
def test_a_dora_in_the_format_of_diffusers_is_a_dora_in_stock_diffusers(tmp_path: Any) -> None:
    pipe: Any = sd_pipeline()
    layers = adapter_on(pipe.unet, "unet", ("to_q", "to_k", "conv1")).components["unet"]
    modules = dict(pipe.unet.named_modules())
    doras: dict[str, AdapterLayer] = {}
    for path, layer in layers.items():
        assert isinstance(layer, LoRA)
        weight = modules[path].weight.detach()
        doras[path] = DoRA(layer, torch.rand(len(weight)) + 0.5)
    adapter = Adapter({"unet": doras})
    lorica.write(adapter, tmp_path)
    assert lorica.read(tmp_path) == adapter
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.load_lora_weights(tmp_path, adapter_name="a")
    for path, dora in doras.items():
        loaded = pipe.unet.get_submodule(path)
        base = loaded.base_layer.weight.detach()
        loaded.merge(adapter_names=["a"])
        moved = loaded.base_layer.weight.detach()
        assert relative_error(base + dora.delta(base), moved) < FP32_NOISE, path


TRANSFORMERS = {"wan": (wan, WanPipeline), "qwen_image": (qwen_image, QwenImagePipeline)}
PATHS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


@pytest.mark.filterwarnings(PEFT_CHATTER)
@pytest.mark.parametrize("name", ["kohya", "comfyui"])
@pytest.mark.parametrize("family", TRANSFORMERS)
def test_a_file_for_another_transformer_changes_what_stock_diffusers_changes(family: str, name: str) -> None:
    make, pipeline = TRANSFORMERS[family]
    model, _ = make()
    target = Target("tiny", {"transformer": target_of(model).components["transformer"]})
    adapter = adapter_on(model, "transformer", PATHS)
    tensors, _ = FORMATS[name].compose(adapter, target)
    read = lorica.read(tensors, target=target)
    assert read == adapter
    state: Any = pipeline.lora_state_dict({key: tensor.clone() for key, tensor in tensors.items()})
    pipeline.load_lora_into_transformer(state, model, adapter_name="a")
    assert_same_changes(model, read.components["transformer"])


@pytest.mark.filterwarnings(PEFT_CHATTER)
def test_stock_diffusers_leaves_out_the_alpha_of_a_file_for_ltx_and_we_do_not() -> None:
    model, _ = ltx()
    target = Target("tiny", {"transformer": target_of(model).components["transformer"]})
    adapter = adapter_on(model, "transformer", ("to_q", "to_k"))
    tensors, _ = FORMATS["comfyui"].compose(adapter, target)
    layers = lorica.read(tensors, target=target).components["transformer"]
    state: Any = LTXPipeline.lora_state_dict(dict(tensors))
    LTXPipeline.load_lora_into_transformer(state, model, adapter_name="a")
    for path, delta in peft_deltas(model).items():
        assert relative_error(layers[path].delta(delta), delta * (3.0 / 2)) < FP32_NOISE, path
