"""Layers and changes for tests: one layer for each code path, every size different from every other."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lorica.adapters import Adapter, AdapterLayer, LoCon, LoRA

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(5, 7),
    "linear wide": lambda: nn.Linear(12, 20),
    "linear without bias": lambda: nn.Linear(6, 9, bias=False),
    "conv1d": lambda: nn.Conv1d(5, 7, 3, padding=1),
    "conv2d 1x1": lambda: nn.Conv2d(5, 7, 1),
    "conv2d wide": lambda: nn.Conv2d(12, 20, (3, 2), padding=1),
    "conv2d strided": lambda: nn.Conv2d(5, 7, (3, 2), stride=(2, 1), padding=(1, 0)),
    "conv2d dilated": lambda: nn.Conv2d(5, 7, 3, padding=2, dilation=2),
    "conv2d grouped": lambda: nn.Conv2d(6, 8, 3, padding=1, groups=2),
    "conv2d same": lambda: nn.Conv2d(5, 7, (3, 5), padding="same"),
    "conv2d reflect": lambda: nn.Conv2d(5, 7, 3, padding=1, padding_mode="reflect"),
    "conv3d": lambda: nn.Conv3d(5, 7, (1, 3, 2), padding=(0, 1, 0)),
    "embedding": lambda: nn.Embedding(11, 6),
}
NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: nn.LayerNorm(6),
    "group norm": lambda: nn.GroupNorm(3, 6),
    "rms norm": lambda: nn.RMSNorm(5, eps=1e-6),
}


def sample_input(layer: nn.Module) -> Tensor:
    """Return a batch of two inputs for a layer."""
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        return torch.randn(2, 4, *layer.normalized_shape)
    if isinstance(layer, nn.GroupNorm):
        return torch.randn(2, layer.num_channels, 8, 10)
    if isinstance(layer, nn.Embedding):
        return torch.randint(0, layer.num_embeddings, (2, 4))
    if isinstance(layer, nn.Linear):
        return torch.randn(2, 4, layer.in_features)
    sizes = (8, 10, 9)[: layer.weight.ndim - 2]
    return torch.randn(2, layer.in_channels, *sizes)


def make_lora(layer: nn.Module, rank: int = 3, alpha: float = 1.5) -> LoRA:
    """Return a LoRA that fits a layer, with values of the size that training gives."""
    out, *rest = layer.weight.shape
    ones = [1] * (len(rest) - 1)
    return LoRA(torch.randn(rank, *rest) / rank, torch.randn(out, rank, *ones) / 4, alpha)


def make_locon(layer: nn.Module, rank: int = 3) -> LoCon:
    """Return a LoCon with a Tucker core that fits a convolution."""
    out, width, *kernel = layer.weight.shape
    ones = [1] * len(kernel)
    return LoCon(
        torch.randn(rank, width, *ones), torch.randn(rank, rank, *kernel) / 9, torch.randn(out, rank, *ones), 2
    )


def moved(layer: nn.Module, changes: list[tuple[AdapterLayer, float]]) -> nn.Module:
    """Return a copy of a layer with ``W + sum of strength * delta(W)`` written into it, and the same for its bias."""
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        for change, strength in changes:
            twin.weight += strength * change.delta(layer.weight)
            shift = change.bias_delta(getattr(layer, "bias", None))
            if shift is not None:
                old = shift.new_zeros(shift.shape) if twin.bias is None else twin.bias
                twin.bias = nn.Parameter(old + strength * shift)
    return twin


def relative_error(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).float().norm() / expected.float().norm()).item()


def one(change: AdapterLayer, path: str = "0") -> Adapter:
    """Return an adapter with a single layer."""
    return Adapter({"model": {path: change}})
