"""Factors in one precision on layers of another: each number is cast once, as torch casts it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lorica
from lorica.adapters import LoRA
from sample_layers import make_lora, one, relative_error

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
RANK, MANY = 6, 37


def awkward(*shape: int) -> Tensor:
    """Return numbers of all sizes that half precision has: subnormal, large, near the middle between two of its own."""
    values = torch.randint(-(2**15), 2**15, shape, dtype=torch.int16).view(torch.float16)
    return values.float().nan_to_num(0.0).clamp(-6e4, 6e4) * (1 + torch.randint(-1, 2, shape) * 2**-11)


@pytest.mark.parametrize("room", [False, True], ids=["fresh", "reserved"])
@pytest.mark.parametrize("factor", ["down", "up", "up turned"])
@pytest.mark.parametrize("layer_in", DTYPES)
@pytest.mark.parametrize("stored_in", DTYPES)
@torch.no_grad()
def test_every_number_of_a_factor_is_what_torch_casts_it_to(
    stored_in: torch.dtype, layer_in: torch.dtype, factor: str, room: bool
) -> None:
    torch.manual_seed(0)
    out, width = (RANK, MANY) if factor == "down" else (MANY, RANK)
    layer = nn.Linear(width, out, bias=False).to(layer_in)
    layer.weight.zero_()
    values, ones = awkward(out, width).to(stored_in), torch.eye(RANK, dtype=stored_in)
    stored = values.T.contiguous().T if factor == "up turned" else values
    loras = lorica.attach(nn.Sequential(layer))
    if room:
        loras.reserve(rank=RANK + 3)
    loras.load(one(LoRA(stored, ones) if factor == "down" else LoRA(ones, stored)), name="a")
    assert torch.equal(layer(torch.eye(width, dtype=layer_in)).T, values.to(layer_in))


@pytest.mark.parametrize("layer_in", DTYPES)
@pytest.mark.parametrize("stored_in", DTYPES)
def test_the_output_has_the_precision_of_the_layer(stored_in: torch.dtype, layer_in: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(33, 70).to(layer_in)
    change, x = make_lora(layer.float()), torch.randn(5, 33)
    expected = nn.functional.linear(x, layer.weight + 0.7 * change.delta(layer.weight), layer.bias)
    layer.to(layer_in)
    stored = change.map(lambda tensor: tensor.to(stored_in))
    lorica.attach(nn.Sequential(layer)).load(one(stored), name="a", strength=0.7)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            got = layer(x.to(layer_in))
        assert got.dtype == layer_in
        assert relative_error(got, expected) < 2e-2  # bfloat16; measured 5e-3
