"""Room reserved before compiling: nothing that fits compiles again, and what does not fit says by how much."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lorica
from bank_memory import served
from lorica.adapters import Adapter, Full, LoRA
from lorica.errors import ConfigError, StateError, UnknownNameError
from sample_layers import make_lora, relative_error

FP32_NOISE = 4e-6  # relative; worst measured 8e-7


class Unet(nn.Module):
    """A convolution, a norm and a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.GroupNorm(2, 6)
        self.to_q = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.to_q(self.norm(self.conv(x)).flatten(2).transpose(1, 2))


class Pipeline:
    """A stand-in with two components."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.components = {
            "unet": Unet().eval(),
            "text_encoder": nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 3)).eval(),
        }


def adapter(pipe: Pipeline, rank: int, *paths: str) -> Adapter:
    parts: dict[str, dict[str, LoRA]] = {}
    for path in paths:
        component, module = path.split("/")
        layer = pipe.components[component].get_submodule(module)
        parts.setdefault(component, {})[module] = make_lora(layer, rank=rank)
    return Adapter(parts)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
def test_nothing_that_fits_compiles_again(backend: str) -> None:
    pipe = Pipeline()
    unet, text = pipe.components["unet"], pipe.components["text_encoder"]
    loras = lorica.attach(pipe)
    loras.reserve(rank=9)
    torch._dynamo.reset()
    fast_unet, fast_text = (torch.compile(part, fullgraph=True, backend=backend) for part in (unet, text))
    x, tokens = torch.randn(2, 3, 6, 5), torch.randn(2, 4)

    def check() -> None:
        for fast, part, given in ((fast_unet, unet, x), (fast_text, text, tokens)):
            assert relative_error(fast(given), part(given)) < FP32_NOISE

    with torch.no_grad():
        base = unet(x), text(tokens)
        check()
        with torch._dynamo.config.patch(error_on_recompile=True):
            loras.load(adapter(pipe, 2, "unet/conv"), name="a")
            check()
            assert not torch.equal(unet(x), base[0])
            loras.load(adapter(pipe, 5, "unet/to_q", "text_encoder/1"), name="other modules", strength=-0.4)
            check()
            assert not torch.equal(text(tokens), base[1])
            loras.set({"a": 0.2, "other modules": {"text_encoder": 0.0}})
            check()
            loras.remove("a")
            check()
            loras.load(adapter(pipe, 4, "unet/conv", "unet/to_q", "text_encoder/0"), name="another rank")
            check()
            swapped = adapter(pipe, 3, "unet/conv", "text_encoder/1")
            loras.load(swapped, name="another rank", strength=-1.7, replace=True)
            check()
            loras.disable()
            check()
            assert relative_error(fast_unet(x), base[0]) < FP32_NOISE
            loras.enable()
            loras.clear()
            check()
            assert relative_error(fast_unet(x), base[0]) < FP32_NOISE


def test_reserved_rows_add_nothing_until_something_is_loaded() -> None:
    pipe = Pipeline()
    unet, x = pipe.components["unet"], torch.randn(2, 3, 6, 5)
    base, keys = unet(x), list(unet.state_dict())
    loras = lorica.attach(pipe)
    loras.reserve(rank=8, modules=["conv", "to_q"])
    assert torch.equal(unet(x), base)
    assert list(unet.state_dict()) == keys
    assert lorica.attach(pipe) is loras
    loras.detach()
    assert not any(module._forward_hooks for part in pipe.components.values() for module in part.modules())
    assert not served(unet)


def test_what_was_loaded_before_stays_as_it_is() -> None:
    pipe = Pipeline()
    unet, x = pipe.components["unet"], torch.randn(2, 3, 6, 5)
    loras = lorica.attach(pipe)
    loras.load(adapter(pipe, 4, "unet/conv", "unet/to_q"), name="a", strength=0.7)
    before = unet(x)
    loras.reserve(rank=3)
    assert torch.equal(unet(x), before)


def refusal(loras: Any, change: Adapter) -> str:
    with pytest.raises(StateError) as refused:
        loras.load(change, name="late")
    return str(refused.value)


def test_what_exceeds_the_reservation_is_refused_and_says_by_how_much() -> None:
    pipe = Pipeline()
    unet, x = pipe.components["unet"], torch.randn(2, 3, 6, 5)
    loras = lorica.attach(pipe)
    loras.reserve(rank=6, modules="to_q")
    loras.load(adapter(pipe, 4, "unet/to_q"), name="a")
    before = unet(x)
    narrow = refusal(loras, adapter(pipe, 5, "unet/to_q"))
    assert "1 modules need more rows than there are, at most 9 where 6 are reserved (in unet.to_q)" in narrow
    assert "reserve(rank=9)" in narrow
    missing = refusal(loras, adapter(pipe, 2, "unet/conv", "text_encoder/0"))
    assert "2 modules were not reserved at all: unet.conv, text_encoder.0" in missing
    whole = refusal(loras, Adapter({"unet": {"to_q": Full(torch.randn(5, 6))}}))
    assert "no thin factors" in whole
    assert "unet.to_q" in whole
    assert "load(..., strength=0.0), then fuse()" in whole
    assert torch.equal(unet(x), before)
    assert loras.names == ["a"]
    loras.remove("a")
    loras.load(adapter(pipe, 5, "unet/to_q"), name="fits now")


def test_what_has_no_thin_factors_is_fused_under_a_reservation() -> None:
    pipe = Pipeline()
    unet, x = pipe.components["unet"], torch.randn(2, 3, 6, 5)
    base, change = unet(x), Adapter({"unet": {"to_q": Full(torch.randn(5, 6))}})
    loras = lorica.attach(pipe)
    loras.reserve(rank=6)
    loras.load(change, name="whole", strength=0.0)
    assert torch.equal(unet(x), base)
    loras.fuse({"whole": 1.0})
    assert not torch.equal(unet(x), base)
    loras.unfuse()
    assert torch.equal(unet(x), base)


def test_a_reservation_that_names_nothing_is_refused() -> None:
    loras = lorica.attach(Pipeline())
    with pytest.raises(UnknownNameError, match="to_queue"):
        loras.reserve(rank=4, modules=["to_q", "to_queue"])
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        loras.reserve(rank=0)
    unet = loras.components["unet"]
    assert not served(unet)
    assert lorica.attach(unet) is not loras  # it belongs to nobody yet
