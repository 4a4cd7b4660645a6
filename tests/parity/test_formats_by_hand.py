"""Dialects that no other program here loads, held to the original models' layout, written out by hand in numpy.

A model's weights are put together as the original program has them (fused projections stacked, halves of the last
modulation swapped). A file's change, computed there, must be what the fused live model has there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from numpy.typing import NDArray
from torch import Tensor, nn

import lorica
import tiny_transformers
from lorica.runtime.model.targets import target_of

Weights = dict[str, NDArray[Any]]
FP32_NOISE = 5e-7  # relative to the largest weight; worst measured 6.4e-8
RANK, ALPHA = 3, 1.5
QKV = ("to_q", "to_k", "to_v")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")


def weights_of(model: nn.Module) -> Weights:
    return {key: tensor.detach().numpy().copy() for key, tensor in model.state_dict().items()}


def stacked(own: Weights, paths: list[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the weight and, if there is one, the bias of modules over each other."""
    yield "weight", np.concatenate([own[f"{path}.weight"] for path in paths])
    if f"{paths[0]}.bias" in own:
        yield "bias", np.concatenate([own[f"{path}.bias"] for path in paths])


def halves_swapped(own: Weights, path: str) -> Iterator[tuple[str, NDArray[Any]]]:
    for leaf, array in stacked(own, [path]):
        low, high = np.split(array, 2)
        yield leaf, np.concatenate([high, low])


def flux_blocks(double: int, single: int) -> dict[str, list[str]]:
    table: dict[str, list[str]] = {}
    for number in range(double):
        block, own = f"double_blocks.{number}", f"transformer_blocks.{number}"
        table[f"{block}.img_attn.qkv"] = [f"{own}.attn.{part}" for part in QKV]
        table[f"{block}.txt_attn.qkv"] = [f"{own}.attn.{part}" for part in ADDED]
        for side, out, feed, norm in (
            ("img", "attn.to_out.0", "ff", "norm1"), ("txt", "attn.to_add_out", "ff_context", "norm1_context"),
        ):  # fmt: skip
            table[f"{block}.{side}_attn.proj"] = [f"{own}.{out}"]
            table[f"{block}.{side}_mlp.0"] = [f"{own}.{feed}.net.0.proj"]
            table[f"{block}.{side}_mlp.2"] = [f"{own}.{feed}.net.2"]
            table[f"{block}.{side}_mod.lin"] = [f"{own}.{norm}.linear"]
        for side, added in (("img", ""), ("txt", "added_")):
            for part in ("query", "key"):
                table[f"{block}.{side}_attn.norm.{part}_norm"] = [f"{own}.attn.norm_{added}{part[0]}"]
    for number in range(single):
        block, own = f"single_blocks.{number}", f"single_transformer_blocks.{number}"
        table[f"{block}.linear1"] = [*(f"{own}.attn.{part}" for part in QKV), f"{own}.proj_mlp"]
        table[f"{block}.linear2"] = [f"{own}.proj_out"]
        table[f"{block}.modulation.lin"] = [f"{own}.norm.linear"]
        for part in ("query", "key"):
            table[f"{block}.norm.{part}_norm"] = [f"{own}.attn.norm_{part[0]}"]
    return table


def flux_original(own: Weights) -> Weights:
    """Return the weights of a Flux of one double and two single blocks as Black Forest Labs have them."""
    embed = "time_text_embed"
    table = {
        **flux_blocks(1, 2),
        "img_in": ["x_embedder"], "txt_in": ["context_embedder"], "final_layer.linear": ["proj_out"],
        **{
            f"{foreign}.{layer}": [f"{embed}.{path}_embedder.linear_{number}"]
            for foreign, path in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance"))
            for layer, number in (("in_layer", 1), ("out_layer", 2))
        },
    }  # fmt: skip
    found = {f"{name}.{leaf}": array for name, paths in table.items() for leaf, array in stacked(own, paths)}
    last = "final_layer.adaLN_modulation.1"
    return {**found, **{f"{last}.{leaf}": array for leaf, array in halves_swapped(own, "norm_out.linear")}}


def sd3_original(own: Weights) -> Weights:
    """Return the weights of a Stable Diffusion 3.5 of two blocks as Stability has them."""
    table: dict[str, list[str]] = {"context_embedder": ["context_embedder"], "final_layer.linear": ["proj_out"]}
    for foreign, path in (("t_embedder", "timestep"), ("y_embedder", "text")):
        for layer, number in ((0, 1), (2, 2)):
            table[f"{foreign}.mlp.{layer}"] = [f"time_text_embed.{path}_embedder.linear_{number}"]
    for number in range(2):
        block, path = f"joint_blocks.{number}", f"transformer_blocks.{number}"
        table[f"{block}.x_block.attn.qkv"] = [f"{path}.attn.{part}" for part in QKV]
        table[f"{block}.context_block.attn.qkv"] = [f"{path}.attn.{part}" for part in ADDED]
        table[f"{block}.x_block.attn.proj"] = [f"{path}.attn.to_out.0"]
        table[f"{block}.x_block.mlp.fc1"] = [f"{path}.ff.net.0.proj"]
        table[f"{block}.x_block.mlp.fc2"] = [f"{path}.ff.net.2"]
        table[f"{block}.x_block.adaLN_modulation.1"] = [f"{path}.norm1.linear"]
        for part in "qk":
            table[f"{block}.x_block.attn.ln_{part}"] = [f"{path}.attn.norm_{part}"]
            table[f"{block}.context_block.attn.ln_{part}"] = [f"{path}.attn.norm_added_{part}"]
    first = "joint_blocks.0"
    table[f"{first}.context_block.attn.proj"] = ["transformer_blocks.0.attn.to_add_out"]
    table[f"{first}.context_block.mlp.fc1"] = ["transformer_blocks.0.ff_context.net.0.proj"]
    table[f"{first}.context_block.mlp.fc2"] = ["transformer_blocks.0.ff_context.net.2"]
    table[f"{first}.context_block.adaLN_modulation.1"] = ["transformer_blocks.0.norm1_context.linear"]
    table[f"{first}.x_block.attn2.qkv"] = [f"transformer_blocks.0.attn2.{part}" for part in QKV]
    table[f"{first}.x_block.attn2.proj"] = ["transformer_blocks.0.attn2.to_out.0"]
    for part in "qk":
        table[f"{first}.x_block.attn2.ln_{part}"] = [f"transformer_blocks.0.attn2.norm_{part}"]
    found = {f"{name}.{leaf}": array for name, paths in table.items() for leaf, array in stacked(own, paths)}
    swapped = {
        "final_layer.adaLN_modulation.1": "norm_out.linear",
        "joint_blocks.1.context_block.adaLN_modulation.1": "transformer_blocks.1.norm1_context.linear",
    }
    return found | {
        f"{name}.{leaf}": array for name, path in swapped.items() for leaf, array in halves_swapped(own, path)
    }


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape) / 4


def product(up: Tensor, down: Tensor) -> NDArray[Any]:
    return (up.double() @ down.double()).numpy()


File = tuple[dict[str, Tensor], Weights]  # the tensors, and what they add to the original weights


def matrices(original: Weights) -> Iterator[tuple[str, int, int]]:
    for key, array in original.items():
        if array.ndim == 2 and key.endswith(".weight"):
            yield key.removesuffix(".weight"), array.shape[0], array.shape[1]


def pairs(original: Weights, key: Callable[[str], str], down: str, up: str, alpha: str | None) -> File:
    """Return a LoRA of every matrix of the original."""
    tensors: dict[str, Tensor] = {}
    change: Weights = {}
    for name, out, width in matrices(original):
        a, b = normal(RANK, width), normal(out, RANK)
        tensors |= {f"{key(name)}.{down}": a, f"{key(name)}.{up}": b}
        tensors |= {f"{key(name)}.{alpha}": torch.tensor(ALPHA)} if alpha else {}
        change[f"{name}.weight"] = product(b, a) * (ALPHA / RANK if alpha else 1)
    return tensors, change


def kohya(original: Weights) -> File:
    return pairs(
        original, lambda name: f"lora_unet_{name.replace('.', '_')}", "lora_down.weight", "lora_up.weight", "alpha"
    )


def comfyui(original: Weights) -> File:
    tensors, change = pairs(original, lambda name: f"diffusion_model.{name}", "lora_A.weight", "lora_B.weight", "alpha")
    for key, array in original.items():
        if key.endswith(".bias"):
            bias = normal(*array.shape)
            tensors[f"diffusion_model.{key.removesuffix('.bias')}.diff_b"], change[key] = bias, bias.numpy()
        elif array.ndim == 1:
            scale = normal(*array.shape)
            tensors[f"diffusion_model.{key.removesuffix('.weight')}.diff"], change[key] = scale, scale.numpy()
    return tensors, change


def omi(original: Weights) -> File:
    """Return a LoRA of its own for each part of a fused weight."""
    tensors: dict[str, Tensor] = {}
    change: Weights = {}
    for name, out, width in matrices(original):
        fused = {"qkv": (out // 3,) * 3, "linear1": (width,) * 3 + (out - 3 * width,)}.get(
            name.rpartition(".")[2], (out,)
        )
        rows = []
        for number, height in enumerate(fused):
            own = f"transformer.{name}.{number}" if len(fused) > 1 else f"transformer.{name}"
            a, b = normal(RANK + number, width), normal(height, RANK + number)
            tensors |= {f"{own}.lora_down.weight": a, f"{own}.lora_up.weight": b, f"{own}.alpha": torch.tensor(ALPHA)}
            rows.append(product(b, a) * ALPHA / (RANK + number))
        change[f"{name}.weight"] = np.concatenate(rows)
    return tensors, change


def uso(original: Weights) -> File:
    """Return the processors of all blocks; those of single blocks change q, k and v, and not the MLP beside them."""
    tensors: dict[str, Tensor] = {}
    change: Weights = {}
    parts = {
        "img_attn.qkv": "qkv_lora1", "txt_attn.qkv": "qkv_lora2", "img_attn.proj": "proj_lora1",
        "txt_attn.proj": "proj_lora2", "linear1": "qkv_lora", "linear2": "proj_lora",
    }  # fmt: skip
    for name, out, width in matrices(original):
        block, part = ".".join(name.split(".")[:2]), ".".join(name.split(".")[2:])
        if part not in parts:
            continue
        height = 3 * width if part == "linear1" else out
        a, b = normal(RANK, width), normal(height, RANK)
        tensors[f"{block}.processor.{parts[part]}.down.weight"] = a
        tensors[f"{block}.processor.{parts[part]}.up.weight"] = b
        change[f"{name}.weight"] = np.concatenate([product(b, a), np.zeros((out - height, width))])
    return tensors, change


def bfl_control(original: Weights) -> File:
    """Return a LoRA with a bias of every matrix, and new scales for every norm."""
    tensors, change = pairs(original, str, "lora_A.weight", "lora_B.weight", None)
    for name, out, _ in matrices(original):
        bias = normal(out)
        tensors[f"{name}.lora_B.bias"], change[f"{name}.bias"] = bias, bias.numpy()
    for key, array in original.items():
        if array.ndim == 1 and key.endswith(".weight"):
            scale = normal(*array.shape)
            tensors[key.replace(".weight", ".scale")] = scale
            change[key] = scale.numpy() - array
    return tensors, change


def flux() -> nn.Module:
    return tiny_transformers.flux()[0]


def flux_control() -> nn.Module:
    """A Flux whose first layer takes the picture and the hint, and whose every matrix has a bias."""
    return FluxTransformer2DModel(
        in_channels=8, out_channels=4, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=28, pooled_projection_dim=20, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip


def sd3() -> nn.Module:
    return tiny_transformers.sd3()[0]


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[Weights], Weights], Callable[[Weights], File]]] = {
    "kohya, Flux": (flux, flux_original, kohya),
    "kohya, Stable Diffusion 3": (sd3, sd3_original, kohya),
    "comfyui, Flux": (flux, flux_original, comfyui),
    "comfyui, Stable Diffusion 3": (sd3, sd3_original, comfyui),
    "omi, Flux": (flux, flux_original, omi),
    "uso, Flux": (flux, flux_original, uso),
    "bfl_control, Flux": (flux_control, flux_original, bfl_control),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_changes_the_original_s_weights_as_its_formula_says(name: str) -> None:
    make, original_of, file_of = CASES[name]
    model = make().requires_grad_(False)
    own = weights_of(model)
    before = original_of(own)
    unnamed = sum(array.size for key, array in own.items() if key.startswith("pos_embed."))
    assert sum(array.size for array in before.values()) == sum(array.size for array in own.values()) - unnamed
    tensors, change = file_of(before)
    adapter = lorica.read(tensors, target=target_of(model))
    assert adapter.report is not None
    assert adapter.report.format == name.partition(",")[0]
    loras = lorica.attach(model)
    loras.load(tensors, name="a")
    loras.fuse({"a": 1.0})
    after = original_of(weights_of(model))
    largest = max(np.abs(array).max() for array in after.values())
    for key, array in before.items():
        expected = array.astype(np.float64) + change.get(key, 0.0)
        assert np.abs(after[key] - expected).max() < FP32_NOISE * largest, key
        assert key in change or np.array_equal(after[key], array), key
    assert change.keys() <= before.keys()
