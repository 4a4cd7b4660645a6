"""The base model in fewer bits: its precision, and linear layers packed to 8 or 4 bits by an optional library."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from lorica.errors import ConfigError, MissingExtraError
from lorica.training.config.config import RunConfig

FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PACKED_BITS = {"int8": 8.0, "nf4": 4.5}  # a weight of a linear layer; nf4 has a scale in 32 bits for every 64 weights


def base_dtype(config: RunConfig, computing: torch.dtype) -> torch.dtype:
    """Return the precision of what of the base model is not packed.

    Args:
        config: the settings.
        computing: the precision that a step computes in.

    Raises:
        ConfigError: if a step would compute in another half precision than the base has.
    """
    dtype = FLOATS.get(config.base_precision or "", computing)
    if dtype not in (torch.float32, computing):
        raise ConfigError(
            f"base_precision is {config.base_precision}, but a step computes in "
            f"{str(computing).removeprefix('torch.')}: leave mixed_precision out, or let both be the same."
        )
    return dtype


def pack_base(part: nn.Module, config: RunConfig, computing: torch.dtype) -> None:
    """Pack the linear layers of a network where ``base_precision`` is int8 or nf4; the rest stays as it is.

    Raises:
        MissingExtraError: if the library that does it is not installed.
    """
    if config.base_precision in PACKERS:
        PACKERS[config.base_precision](part, computing)


def pack_int8(part: nn.Module, computing: torch.dtype) -> None:
    """Store weights as 8-bit numbers with one scale for each row; products are taken in full."""
    del computing
    quantization = _library("torchao.quantization", "torchao", "torchao")
    quantization.quantize_(part, quantization.Int8WeightOnlyConfig())


def pack_nf4(part: nn.Module, computing: torch.dtype) -> None:
    """Store weights as 4-bit numbers that are dense where normal ones are (Dettmers et al. 2023, arXiv:2305.14314)."""
    layers = _library("bitsandbytes.nn", "bitsandbytes", "bnb")
    for path, layer in [(path, layer) for path, layer in part.named_modules() if type(layer) is nn.Linear]:
        parent, _, name = path.rpartition(".")
        part.get_submodule(parent).register_module(name, _as_nf4(layer, layers, computing))


def _as_nf4(layer: nn.Linear, layers: Any, computing: torch.dtype) -> nn.Module:
    device, bias = layer.weight.device, cast("Tensor | None", layer.bias)
    packed = layers.Linear4bit(
        layer.in_features, layer.out_features, bias is not None, computing, quant_type="nf4", device="meta"
    )
    packed.weight = layers.Params4bit(layer.weight.detach().cpu().contiguous(), requires_grad=False, quant_type="nf4")
    packed.bias = bias
    packed.support_avx512bf16_for_cpu = False  # a layout for inference alone: no gradients, and not every size
    return packed.to(device).train(layer.training)


def use_xformers(parts: Iterable[nn.Module]) -> None:
    """Let networks take the attention of xformers.

    Raises:
        MissingExtraError: if it is not installed, or has no GPU to run on.
    """
    for part in parts:
        switch = getattr(part, "enable_xformers_memory_efficient_attention", None)
        if switch is None:
            continue  # a text encoder, whose sentences are short
        try:
            switch()
        except (ImportError, ValueError) as error:
            raise MissingExtraError(
                f"enable_xformers_memory_efficient_attention cannot be used: {error} "
                "Leave it out: torch's own attention needs as little memory."
            ) from error


PACKERS: dict[str, Callable[[nn.Module, torch.dtype], None]] = {"int8": pack_int8, "nf4": pack_nf4}


def _library(module: str, package: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError.for_package(package, "this base_precision", extra) from error
