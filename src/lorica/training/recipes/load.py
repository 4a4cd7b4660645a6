"""The base model: loaded from the package, a folder, a single file or the Hub, and kept in fewer bits if asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from packaging.version import Version
from torch import Tensor, nn

from lorica.errors import ConfigError, FileError, MissingExtraError, ModelError
from lorica.models import bundled
from lorica.printing import expanded, is_path, printable
from lorica.tools.base_model import adapter_at

INDEX = "model_index.json"
AS_ADAPTER = "Give the model that it was trained on as the base; `lorica inspect` says which that is."
PRECISION = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"  # the older name warns
SINGLE_FILES = (".safetensors", ".ckpt")
FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PACKED_BITS = {"int8": 8.0, "nf4": 4.5}  # a weight of a linear layer; nf4 has a scale in 32 bits for every 64 weights


def load_pipeline(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: Path | None = None,
) -> Any:
    """The diffusers pipeline of a base model.

    Args:
        name_or_path: ``bundled``, a folder in diffusers' format, a ``.safetensors`` file, or a Hub id.
        dtype: the precision of the weights.
        revision: branch, tag or commit on the Hub.
        variant: file variant, such as ``fp16``.
        cache_dir: where files from the Hub are kept.

    Raises:
        FileError: if there is no such model or it cannot be fetched.
        ModelError: if it is there but cannot be loaded.
    """
    source = _locate(str(name_or_path))
    options: dict[str, Any] = {PRECISION: dtype, "revision": revision, "cache_dir": cache_dir}
    try:
        if source.endswith(SINGLE_FILES):
            return StableDiffusionPipeline.from_single_file(source, **options)
        return DiffusionPipeline.from_pretrained(source, variant=variant, **options)
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, ImportError) as error:
        if Path(source).exists():
            raise ModelError(f"cannot load the base model {name_or_path}: {_reason(source, error)}") from error
        raise FileError(
            f"there is no base model {name_or_path}: it is no folder or file here, and the Hub says: "
            f"{_first_line(error)} Check the spelling, the connection, and for a closed model: hf auth login."
        ) from error


def base_dtype(base_precision: str | None, computing: torch.dtype) -> torch.dtype:
    """Precision of those weights of the base model that are not packed, for steps that compute in ``computing``.

    Raises:
        ConfigError: if a step would compute in another half precision than the base has.
    """
    dtype = FLOATS.get(base_precision or "", computing)
    if dtype not in (torch.float32, computing):
        raise ConfigError(
            f"base_precision is {base_precision}, but a step computes in "
            f"{str(computing).removeprefix('torch.')}: leave mixed_precision out, or let both be the same."
        )
    return dtype


def pack_base(network: nn.Module, base_precision: str | None, computing: torch.dtype) -> None:
    """Pack the linear layers of a network where ``base_precision`` is int8 or nf4; other layers stay as they are.

    Raises:
        MissingExtraError: if the library for it is not installed.
    """
    if base_precision in PACKERS:
        PACKERS[base_precision](network, computing)


def pack_int8(network: nn.Module, computing: torch.dtype) -> None:
    """Store weights in 8 bits with one scale a row; products are computed in full precision."""
    del computing
    quantization = _library("torchao.quantization", "torchao", "torchao")
    quantization.quantize_(network, quantization.Int8WeightOnlyConfig())


def pack_nf4(network: nn.Module, computing: torch.dtype) -> None:
    """Store weights in 4 bits, in steps of equal probability (NF4, Dettmers et al. 2023, arXiv:2305.14314)."""
    layers = _library("bitsandbytes.nn", "bitsandbytes", "bnb")
    for path, layer in [(path, layer) for path, layer in network.named_modules() if type(layer) is nn.Linear]:
        parent, _, name = path.rpartition(".")
        network.get_submodule(parent).register_module(name, _as_nf4(layer, layers, computing))


def _as_nf4(layer: nn.Linear, layers: Any, computing: torch.dtype) -> nn.Module:
    device, bias = layer.weight.device, cast("Tensor | None", layer.bias)
    packed = layers.Linear4bit(
        layer.in_features, layer.out_features, bias is not None, computing, quant_type="nf4", device="meta"
    )
    packed.weight = layers.Params4bit(layer.weight.detach().cpu().contiguous(), requires_grad=False, quant_type="nf4")
    packed.bias = bias
    packed.support_avx512bf16_for_cpu = False  # that layout has no gradients, and does not take every size
    return packed.to(device).train(layer.training)


def use_xformers(networks: Iterable[nn.Module]) -> None:
    """Switch networks to the attention of xformers.

    Raises:
        MissingExtraError: if it is not installed, or has no GPU to run on.
    """
    for network in networks:
        switch = getattr(network, "enable_xformers_memory_efficient_attention", None)
        if switch is None:
            continue  # a text encoder, whose sequences are short
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


def _locate(name: str) -> str:
    """The path or name that diffusers should load.

    Raises:
        FileError: if a path is named that is not a model.
    """
    if not is_path(name):
        raise FileError(f"there is no base model {printable(name)}: that can be neither a path nor a name on the Hub.")
    path = bundled.FOLDER if name == bundled.NAME else expanded(name)
    if name == bundled.NAME and not (path / INDEX).is_file():
        raise FileError(f"the bundled base model is not in this installation ({path}); install the package anew.")
    if path.is_dir() and not (path / INDEX).is_file():
        if (adapter := adapter_at(path)) is not None:
            raise FileError(f"{path} is no base model: it holds the adapter {adapter.name}. {AS_ADAPTER}")
        raise FileError(f"{path} is not a model in diffusers' format: it holds no {INDEX}.")
    if not path.exists() and (name.endswith(SINGLE_FILES) or name.startswith(("/", ".", "~")) or name.count("/") > 1):
        raise FileError(f"there is no base model at {path}.")
    return str(path) if path.exists() else name


def _reason(source: str, error: Exception) -> str:
    """Why a model that is there cannot be loaded, in plain words where the cause is known."""
    path = Path(source)
    if adapter_at(path) is not None:
        return f"it is no base model but an adapter. {AS_ADAPTER}"
    try:
        name = json.loads((path / INDEX).read_text("utf-8")).get("_class_name", "") if path.is_dir() else ""
    except (OSError, ValueError, AttributeError):
        name = ""
    if name and not hasattr(diffusers, str(name)):
        return f"it is a {name}, which the installed diffusers {diffusers.__version__} does not know."
    return str(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
