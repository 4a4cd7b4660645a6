"""A sample of every method, for any layer that it can be for."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lorica.adapters import (
    BOFT,
    IA3,
    OFT,
    AdapterLayer,
    BiasOnly,
    DoRA,
    Full,
    GLoRA,
    JoinedRows,
    LoHa,
    LoKr,
    LoRA,
    Norm,
    OFTv2,
    Places,
    Residual,
    SetWeight,
    VeRA,
)
from sample_layers import make_locon, make_lora


def of_matrix(layer: nn.Module) -> bool:
    return len(layer.weight.shape) > 1


def of_kernel(layer: nn.Module) -> bool:
    return len(layer.weight.shape) > 2


def has_outputs(layer: nn.Module) -> bool:
    """Tell whether a layer can have a bias."""
    return not isinstance(layer, (nn.Embedding, nn.RMSNorm))


def make_bias(layer: nn.Module) -> Tensor | None:
    return torch.randn(len(layer.weight)) if has_outputs(layer) else None


def make_full(layer: nn.Module) -> Full:
    return Full(torch.randn(layer.weight.shape) / 4, make_bias(layer))


def make_set_weight(layer: nn.Module) -> SetWeight:
    return SetWeight(torch.randn(layer.weight.shape) / 4)


def make_norm(layer: nn.Module) -> Norm:
    return Norm(torch.randn(layer.weight.shape) / 4, make_bias(layer))


def make_bias_only(layer: nn.Module) -> BiasOnly:
    return BiasOnly(torch.randn(len(layer.weight)))


def make_loha(layer: nn.Module, rank: int = 2) -> LoHa:
    out, *rest = layer.weight.shape
    columns = math.prod(rest)
    halves = [torch.randn(size) for size in [(out, rank), (rank, columns)] * 2]
    return LoHa(*halves, alpha=1.5, shape=tuple(layer.weight.shape), bias=make_bias(layer))


def make_loha_with_cores(layer: nn.Module, rank: int = 2) -> LoHa:
    out, width, *kernel = layer.weight.shape
    halves = [torch.randn(size) for size in [(rank, out), (rank, width)] * 2]
    cores = torch.randn(2, rank, rank, *kernel)
    return LoHa(*halves, alpha=3.0, t1=cores[0], t2=cores[1])


def split(size: int) -> tuple[int, int]:
    """Return two factors of a size, the first its smallest prime."""
    first = next(number for number in range(2, size + 1) if size % number == 0)
    return first, size // first


def make_lokr(layer: nn.Module) -> LoKr:
    """Return a LoKr of two whole factors, whose alpha means nothing."""
    out, width, *kernel = layer.weight.shape
    (out1, out2), (in1, in2) = split(out), split(width)
    return LoKr(w1=torch.randn(out1, in1), w2=torch.randn(out2, in2, *kernel), alpha=1e10, bias=make_bias(layer))


def make_lokr_factored(layer: nn.Module, rank: int = 2) -> LoKr:
    out, width, *kernel = layer.weight.shape
    (out1, out2), (in1, in2) = split(out), split(width)
    w2_b = torch.randn(rank, in2 * math.prod(kernel))
    return LoKr(
        w1=torch.randn(out1, in1), w2_a=torch.randn(out2, rank), w2_b=w2_b, alpha=3.0, shape=tuple(layer.weight.shape)
    )


def make_lokr_factored_first(layer: nn.Module, rank: int = 1) -> LoKr:
    out, width, *kernel = layer.weight.shape
    (out1, out2), (in1, in2) = split(out), split(width)
    return LoKr(
        w1_a=torch.randn(out1, rank), w1_b=torch.randn(rank, in1), w2=torch.randn(out2, in2, *kernel), alpha=0.5
    )


def make_lokr_with_core(layer: nn.Module, rank: int = 2) -> LoKr:
    out, width, *kernel = layer.weight.shape
    (out1, out2), (in1, in2) = split(out), split(width)
    first = {"w1_a": torch.randn(out1, 1), "w1_b": torch.randn(1, in1)}
    return LoKr(
        **first,
        w2_a=torch.randn(rank, out2),
        w2_b=torch.randn(rank, in2),
        t2=torch.randn(rank, rank, *kernel),
        alpha=1.0,
    )


def make_dora(layer: nn.Module) -> DoRA:
    """Return a DoRA by outputs on a LoRA, as PEFT trains it."""
    return DoRA(make_lora(layer), torch.rand(len(layer.weight)) + 0.5)


def make_dora_by_input(layer: nn.Module) -> DoRA:
    """Return a DoRA by inputs on a LoHa, as OneTrainer and old LyCORIS train it."""
    width, *kernel = layer.weight.shape[1:]
    return DoRA(make_loha(layer), torch.rand(1, width, *[1] * len(kernel)) + 0.5)


def make_residual(layer: nn.Module) -> Residual:
    """Return a LoRA, of a kernel with a core, and numbers at places, one of them twice and none at the last column."""
    inner = make_locon(layer) if of_kernel(layer) else make_lora(layer)
    out, columns = layer.weight.shape[0], layer.weight[0].numel()
    rows = torch.arange(5) % out
    indices = torch.stack([torch.cat([rows, rows[:1]]), torch.tensor([0, 0, 1, 0, 1, 0]) % max(columns - 1, 1)])
    return Residual(inner, torch.randn(6), Places(indices.to(torch.int16), torch.tensor([out, columns])))


def make_glora(layer: nn.Module, rank: int = 2) -> GLoRA:
    out, width, *kernel = layer.weight.shape
    ones = [1] * len(kernel)
    near, far = torch.randn(width, rank, *ones), torch.randn(rank, width, *ones)
    return GLoRA(near, far, torch.randn(out, rank, *ones), torch.randn(rank, width, *kernel), alpha=1.5)


def make_glora_old(layer: nn.Module, rank: int = 1) -> GLoRA:
    """Return a GLoRA in the layout of old LyCORIS, of rank 1, so that it is thin on the wider layers."""
    out, width, *kernel = layer.weight.shape
    ones = [1] * len(kernel)
    near, far = torch.randn(width, rank, *ones), torch.randn(rank, width, *ones)
    left, right = torch.randn(out, rank, *ones), torch.randn(rank, width, *kernel)
    return GLoRA(far, near, right, left, alpha=0.5, bias=make_bias(layer))


def make_glora_with_core(layer: nn.Module, rank: int = 2) -> GLoRA:
    out, width, *kernel = layer.weight.shape
    ones = [1] * len(kernel)
    near, far = torch.randn(width, rank, *ones), torch.randn(rank, width, *ones)
    core = torch.randn(rank, rank, *kernel)
    return GLoRA(near, far, torch.randn(out, rank, *ones), torch.randn(rank, width, *ones), mid=core)


def make_ia3(layer: nn.Module) -> IA3:
    """Return a factor for each output, as PEFT stores it."""
    return IA3(torch.rand(len(layer.weight), 1) + 1, on_input=False, is_factor=True)


def make_ia3_on_input(layer: nn.Module) -> IA3:
    """Return a difference from 1 for each input, as LyCORIS stores it."""
    width, *kernel = layer.weight.shape[1:]
    return IA3(torch.randn(1, width, *[1] * len(kernel)), on_input=True, bias=make_bias(layer))


def make_oft(layer: nn.Module) -> OFT:
    """Return an OFT whose constraint is at work, with a rescale."""
    size, count = split(len(layer.weight))
    ones = [1] * (layer.weight.ndim - 1)
    return OFT(torch.randn(count, size, size), constraint=0.1, rescale=torch.rand(len(layer.weight), *ones) + 0.5)


def make_oft_unlimited(layer: nn.Module) -> OFT:
    size, count = split(len(layer.weight))
    return OFT(torch.randn(count, size, size), bias=make_bias(layer))


def make_oft_stored(layer: nn.Module) -> OFT:
    """Return an OFT whose rotations are stored, as old LyCORIS did it."""
    size, count = split(len(layer.weight))
    skew = torch.randn(count, size, size)
    return OFT(rotations=torch.matrix_exp(skew - skew.transpose(1, 2)), bias=make_bias(layer))


def make_oft_v2(layer: nn.Module) -> OFTv2:
    size, count = split(layer.weight[0].numel())
    return OFTv2(torch.randn(count, size * (size - 1) // 2), scaled=True)


def make_oft_v2_shared(layer: nn.Module) -> OFTv2:
    width = layer.weight[0].numel()
    size, _ = split(width)
    return OFTv2(torch.randn(1, size * (size - 1) // 2), in_features=width, shared=True, terms=None, turns_kernel=False)


def make_boft(layer: nn.Module) -> BOFT:
    """Return a BOFT of as many stages as the outputs have room for, at most 3."""
    out = len(layer.weight)
    stages = max(number for number in (1, 2, 3) if out % 2**number == 0)
    size = out // 2 ** (stages - 1)
    return BOFT(torch.randn(stages, out // size, size, size), constraint=0.2, rescale=torch.rand(out) + 0.5)


def make_vera(layer: nn.Module, rank: int = 3) -> VeRA:
    out, width = layer.weight.shape
    return VeRA(torch.randn(out), torch.randn(rank), torch.randn(rank, width), torch.randn(out, rank))


def make_joined_rows(layer: nn.Module) -> JoinedRows:
    """Return LoRAs of their own for the first row and for the last two, the one with a change of the bias."""
    out, *rest = layer.weight.shape
    ones = [1] * (len(rest) - 1)
    first = LoRA(
        torch.randn(1, *rest), torch.randn(1, 1, *ones), 0.5, bias=torch.randn(1) if has_outputs(layer) else None
    )
    last = LoRA(torch.randn(2, *rest), torch.randn(2, 2, *ones), 3.0)
    return JoinedRows({(0, 1): first, (out - 2, out): last}, (out, *rest))


# What a sample is of, to the layers that it can be for and what makes it: at least one sample for every kind.
Maker = Callable[[nn.Module], AdapterLayer]
SAMPLES: dict[str, tuple[Callable[[nn.Module], bool], Maker]] = {
    "lora": (of_matrix, make_lora),
    "locon": (of_kernel, make_locon),
    "residual": (of_matrix, make_residual),
    "dora": (of_matrix, make_dora),
    "dora by input": (of_matrix, make_dora_by_input),
    "loha": (of_matrix, make_loha),
    "loha with cores": (of_kernel, make_loha_with_cores),
    "lokr": (of_matrix, make_lokr),
    "lokr factored": (of_matrix, make_lokr_factored),
    "lokr factored first": (of_matrix, make_lokr_factored_first),
    "lokr with core": (of_kernel, make_lokr_with_core),
    "glora": (of_matrix, make_glora),
    "glora old": (of_matrix, make_glora_old),
    "glora with core": (of_kernel, make_glora_with_core),
    "ia3": (of_matrix, make_ia3),
    "ia3 on input": (of_matrix, make_ia3_on_input),
    "oft": (of_matrix, make_oft),
    "oft unlimited": (of_matrix, make_oft_unlimited),
    "oft stored": (of_matrix, make_oft_stored),
    "oft_v2": (of_matrix, make_oft_v2),
    "oft_v2 shared": (of_matrix, make_oft_v2_shared),
    "boft": (lambda layer: of_matrix(layer) and len(layer.weight) % 2 == 0, make_boft),
    "vera": (lambda layer: of_matrix(layer) and not of_kernel(layer), make_vera),
    "full": (of_matrix, make_full),
    "set_weight": (lambda _: True, make_set_weight),
    "norm": (lambda layer: not of_matrix(layer), make_norm),
    "bias": (has_outputs, make_bias_only),
    "joined_rows": (of_matrix, make_joined_rows),
}
