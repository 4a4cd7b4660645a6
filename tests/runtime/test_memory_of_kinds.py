"""A live adapter takes the memory of its own tensors, whatever its method."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lorica
from bank_memory import bytes_held
from lorica.adapters import BOFT, IA3, OFT, Adapter, AdapterLayer, DoRA, GLoRA, LoKr, LoRA, OFTv2, VeRA
from sample_layers import moved, relative_error

NOISE = 4e-6  # relative; worst measured 7e-7
MOST = 1.1  # of the adapter's own tensors
SIZES = ((320, 320), (320, 640), (640, 320))  # (out, in)
A, B = torch.randn(4, 640), torch.randn(640, 4)  # VeRA's two matrices, shared by all layers


def make_layer(kind: str, out: int, width: int) -> AdapterLayer:
    rank = 4
    lora = LoRA(torch.randn(rank, width) / 9, torch.randn(out, rank) / 9, 3.0)
    return {
        "lora": lambda: lora,
        "dora": lambda: DoRA(lora, torch.rand(out) + 0.5),
        "dora by input": lambda: DoRA(lora, torch.rand(1, width) + 0.5),
        "lokr": lambda: LoKr(w1=torch.randn(8, 8) / 9, w2=torch.randn(out // 8, width // 8) / 9),
        "glora": lambda: GLoRA(
            torch.randn(width, rank) / 9, torch.randn(rank, width) / 9, torch.randn(out, rank) / 9,
            torch.randn(rank, width) / 9,
        ),
        "ia3": lambda: IA3(torch.randn(out) / 9, False),
        "ia3 of inputs": lambda: IA3(torch.randn(width) / 9, True),
        "oft": lambda: OFT(torch.randn(out // 16, 16, 16) / 9),
        "boft": lambda: BOFT(torch.randn(2, out // 16, 16, 16) / 9),
        "oft_v2": lambda: OFTv2(torch.randn(width // 16, 120) / 9, in_features=width),
        "vera": lambda: VeRA(torch.randn(out), torch.randn(rank), A[:, :width], B[:out]),
    }[kind]()  # fmt: skip


KINDS = ["lora", "dora", "dora by input", "lokr", "glora", "ia3", "ia3 of inputs", "oft", "boft", "oft_v2", "vera"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_acts_takes_no_more_memory_than_its_tensors(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(width, out) for out, width in SIZES]).requires_grad_(False)
    layers = {str(index): make_layer(kind, *sizes) for index, sizes in enumerate(SIZES)}
    own = sum(tensor.numel() for layer in layers.values() for tensor in layer.tensors.values())
    if kind == "vera":  # the shared matrices once
        own = A.numel() + B.numel() + sum(out + 4 for out, _ in SIZES)
    plain = [moved(layer, [(layers[str(index)], 0.7)]) for index, layer in enumerate(model)]
    model.to(dtype)
    loras = lorica.attach(model)
    loras.load(Adapter({"model": layers}), name="a", strength=0.7)
    for index, layer in enumerate(model):
        x = torch.randn(2, 9, layer.in_features)
        if dtype is torch.float32:
            assert relative_error(layer(x), plain[index](x)) < NOISE
        else:
            assert relative_error(layer(x.to(dtype)).float(), plain[index](x)) < 2e-2  # measured 5e-3
    strengths = 4 * 2 * sum(layer.rank + 1 for layer in layers.values())  # float32, here and on the device
    assert bytes_held(model) <= MOST * own * dtype.itemsize + 2 * strengths + 200
