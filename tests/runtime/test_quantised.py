"""Layers of bitsandbytes and torchao: adapters act beside the packed weight, and are kept out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lorica
from lorica.errors import ModelError
from sample_kinds import SAMPLES
from sample_layers import one, relative_error

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, at import
WIDTH, OUT = 128, 64
FP32_NOISE = 1e-5  # relative; worst measured 2e-6
# What their own product is off by against the unpacked weight: 8 bits and bfloat16 round within.
CLOSE = {"nf4": 1e-5, "fp4": 1e-5, "8 bits": 2e-2, "torchao int8": 1e-5, "torchao float8": 1e-5}


def of_bitsandbytes(name: str, **settings: Any) -> nn.Module:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = getattr(bitsandbytes.nn, name)(WIDTH, OUT, **settings)
    layer.load_state_dict(nn.Linear(WIDTH, OUT).state_dict())
    return layer.to("cpu")


def of_torchao(name: str) -> nn.Module:
    quantization = pytest.importorskip("torchao.quantization")
    model = nn.Sequential(nn.Linear(WIDTH, OUT))
    quantization.quantize_(model, getattr(quantization, name)())
    return model[0]


PACKED: dict[str, Callable[[], nn.Module]] = {
    "nf4": lambda: of_bitsandbytes("Linear4bit", quant_type="nf4", compute_dtype=torch.float32),
    "fp4": lambda: of_bitsandbytes("Linear4bit", quant_type="fp4", compute_dtype=torch.float32),
    "8 bits": lambda: of_bitsandbytes("Linear8bitLt", has_fp16_weights=False),
    "torchao int8": lambda: of_torchao("Int8WeightOnlyConfig"),
    "torchao float8": lambda: of_torchao("Float8WeightOnlyConfig"),
}


# The same weights as numbers, by the libraries' own means.
UNPACKED: dict[str, Callable[[Any], Tensor]] = {
    "nf4": lambda layer: dequantize_4bit(layer.weight),
    "fp4": lambda layer: dequantize_4bit(layer.weight),
    "8 bits": lambda layer: layer.weight.float() * layer.state.SCB.view(-1, 1) / 127,
    "torchao int8": lambda layer: layer.weight.dequantize(),
    "torchao float8": lambda layer: layer.weight.dequantize(),
}


def dequantize_4bit(weight: Any) -> Tensor:
    return pytest.importorskip("bitsandbytes").functional.dequantize_4bit(weight.data, weight.quant_state)


def packed(name: str) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Return a model of one packed layer, an input, and what the layer gives for it, run once before."""
    torch.manual_seed(0)
    model = nn.Sequential(PACKED[name]()).requires_grad_(False)
    x = torch.randn(3, WIDTH)
    with torch.no_grad():
        return model, x, model(x)


@torch.no_grad()
def weight_of(layer: Any) -> Tensor:
    """Return the weight that a layer computes with, told by what it gives for each input alone."""
    return (layer(torch.eye(WIDTH)) - layer.bias).T


@pytest.mark.parametrize("ran", [True, False])
@pytest.mark.parametrize("name", PACKED)
def test_what_reads_the_weight_reads_the_one_that_the_layer_computes_with(name: str, ran: bool) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(PACKED[name]()).requires_grad_(False), torch.randn(3, WIDTH)
    change = SAMPLES["dora"][1](nn.Linear(WIDTH, OUT))
    with torch.no_grad():
        if ran:
            model(x)  # 8 bits keep their scales elsewhere after the first forward
        loras = lorica.attach(model)
        loras.load(one(change), name="a", strength=0.7)
        changed = model(x)
        loras.set({})
        expected = 0.7 * x @ change.delta(weight_of(model[0])).T
        assert relative_error(changed - model(x), expected) < CLOSE[name]


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr", "loha", "oft", "full", "ia3"])
@pytest.mark.parametrize("name", PACKED)
def test_adapters_of_every_method_act_beside_a_packed_weight(name: str, kind: str) -> None:
    model, x, base = packed(name)
    weight = UNPACKED[name](model[0]).float()
    change = SAMPLES[kind][1](nn.Linear(WIDTH, OUT))
    delta, bias = change.delta(weight), change.bias_delta(model[0].bias)
    loras = lorica.attach(model)
    loras.load(one(change), name="a", strength=0.7)
    expected = base + 0.7 * (x @ delta.T + (0.0 if bias is None else bias))
    with torch.no_grad():
        assert relative_error(model(x), expected) < FP32_NOISE
        assert relative_error(base, expected) > 1e-3
        loras.set({})
        assert torch.equal(model(x), base)
        loras.detach()
        assert torch.equal(model(x), base)


@pytest.mark.parametrize("name", PACKED)
def test_fusing_into_a_packed_weight_is_refused_and_changes_nothing(name: str) -> None:
    model, x, base = packed(name)
    loras = lorica.attach(model)
    loras.load(one(SAMPLES["lora"][1](nn.Linear(WIDTH, OUT))), name="a")
    with torch.no_grad():
        live = model(x)
        with pytest.raises(
            ModelError, match=r"model\.0: its weight is quantised .* Keep the adapter live with set\(\)"
        ):
            loras.fuse({"a": 1.0})
        assert torch.equal(model(x), live)
        loras.detach()
        assert torch.equal(model(x), base)


class InRows(nn.Linear):
    """A Linear in 8 bits with a scale for each row, as bitsandbytes keeps it after the first forward."""

    def __init__(self, scales: Tensor | None) -> None:
        super().__init__(5, 7)
        self.weight = nn.Parameter(torch.arange(35, dtype=torch.int8).view(7, 5), requires_grad=False)
        self.state = type("State", (), {"SCB": scales})()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * (self.state.SCB / 127)[:, None], self.bias)


def test_the_scales_of_8_bits_count_and_without_them_nothing_is_guessed() -> None:
    torch.manual_seed(0)
    layer, x = InRows(torch.arange(1, 8).float()), torch.randn(3, 5)
    change, base = SAMPLES["dora"][1](nn.Linear(5, 7)), layer(x)
    lorica.attach(nn.Sequential(layer)).load(one(change), name="a")
    weight = torch.arange(35).view(7, 5) * torch.arange(1, 8).view(7, 1) / 127
    assert relative_error(layer(x) - base, x @ change.delta(weight).T) < FP32_NOISE
    with pytest.raises(ModelError, match=r"quantised \(torch.int8\) in a way that cannot be unpacked here, and"):
        lorica.attach(nn.Sequential(InRows(None))).load(one(change), name="a")
