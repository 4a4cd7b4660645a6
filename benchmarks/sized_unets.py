"""UNets of real sizes with random weights, and adapter files for them, for the benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from torch import nn

import lorica

SIZES: dict[str, dict[str, Any]] = {
    "least": {  # of ``--small``: nothing is measured with it
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 24,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    },
    "tiny": {
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 48,
    },
    "sd15": {"cross_attention_dim": 768},
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
DTYPES = {"least": torch.float32, "tiny": torch.float32, "sd15": torch.float32, "sdxl": torch.bfloat16}
COVERAGES = {"attention": 16, "full": 32}  # and the rank of each
PATTERNS = {"attention": ["*attn*.to_q", "*attn*.to_k", "*attn*.to_v", "*attn*.to_out.0"], "full": ["all"]}


def make_unet(size: str, device: str = "cpu") -> nn.Module:
    """UNet with random weights."""
    torch.manual_seed(0)
    with init_empty_weights():
        unet = UNet2DConditionModel(**SIZES[size])
    unet = nn.Module.to(unet, DTYPES[size])  # diffusers' own ``to`` warns of modules to keep in float32; there are none
    unet = unet.to_empty(device=device).eval().requires_grad_(False)
    for parameter in unet.parameters():
        parameter.data.normal_(0, 0.02) if parameter.ndim > 1 else parameter.data.fill_(0.5)
    return unet


def write_files(unet: nn.Module, coverage: str, count: int, folder: Path) -> list[Path]:
    """Write adapters in half precision, diffusers' spelling, alpha equal to the rank."""
    rank = COVERAGES[coverage]
    return [lorica.write(_adapter(unet, coverage, rank, seed), folder / f"{seed}.safetensors") for seed in range(count)]


def paths_of(unet: nn.Module, coverage: str) -> list[str]:
    """Paths of the linear and convolution layers that adapters of a coverage change."""
    layers = [path for path, layer in unet.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    patterns = PATTERNS[coverage]
    return [path for path in layers if patterns == ["all"] or any(fnmatchcase(path, one) for one in patterns)]


def _adapter(unet: nn.Module, coverage: str, rank: int, seed: int) -> lorica.Adapter:
    source = torch.Generator().manual_seed(seed)
    layers: dict[str, lorica.AdapterLayer] = {}
    for path in paths_of(unet, coverage):
        out, *rest = unet.get_submodule(path).weight.shape
        down = torch.empty(rank, *rest, dtype=torch.float16).normal_(0, 0.02, generator=source)
        up = torch.empty(out, rank, *[1] * (len(rest) - 1), dtype=torch.float16).normal_(0, 0.02, generator=source)
        layers[path] = lorica.LoRA(down, up)
    return lorica.Adapter({"unet": layers})


def inputs(size: str, side: int, batch: int = 1, device: str = "cpu") -> dict[str, Any]:
    """Arguments of the UNet at a denoising step."""
    dtype, width = DTYPES[size], SIZES[size]["cross_attention_dim"]
    given: dict[str, Any] = {
        "sample": torch.randn(batch, 4, side, side, dtype=dtype, device=device),
        "timestep": torch.tensor(500, device=device),
        "encoder_hidden_states": torch.randn(batch, 77, width, dtype=dtype, device=device),
    }
    if size == "sdxl":
        added = {"text_embeds": torch.randn(batch, 1280, dtype=dtype, device=device)}
        given["added_cond_kwargs"] = {**added, "time_ids": torch.randn(batch, 6, dtype=dtype, device=device)}
    return given


def milliseconds(run: Callable[[], object]) -> float:
    """Duration of one call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def in_turn(sides: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Measure every side once a round, so that what disturbs the machine disturbs all; return the medians.

    Each side does its own timing, as there is work before and after that does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, measure in sides.items():
            times[name].append(measure())
    return {name: statistics.median(measured) for name, measured in times.items()}
