"""Activations that are computed again: the gradients are the same bit for bit, and less is held."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tiny_models
from lorica.runtime import Trainable, choose_modules
from lorica.runtime.trainable import recompute
from lorica.runtime.trainable.recompute import recompute_activations
from lorica.training.device import autocast
from lorica.training.memory.live_bytes import LiveBytes

Make = Callable[[], tuple[nn.Module, Any]]


class Gated(nn.Module):
    """Every kind of layer that is treated, in the order of a UNet: norm, activation, convolution, norm, gate."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 6)
        self.act = nn.SiLU()
        self.conv = nn.Conv2d(6, 10, 3, padding=1, stride=2)
        self.layer_norm = nn.LayerNorm(10)
        self.wide = nn.Linear(10, 80)
        self.back = nn.Linear(40, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.act(self.norm(x)))
        rows = self.layer_norm(x.flatten(2).transpose(1, 2))
        hidden, gate = self.wide(rows).chunk(2, dim=-1)
        return self.back(hidden * F.gelu(gate))


def gated(seed: int = 0) -> Gated:
    torch.manual_seed(seed)
    network = Gated().requires_grad_(False)
    for weight in network.parameters():
        weight.normal_()
    return network


def gradient(network: nn.Module, x: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    x = x.detach().clone().requires_grad_(True)
    with autocast("cpu", precision):
        total = network(x).float().square().sum()
    total.backward()
    assert x.grad is not None
    return x.grad


def kept_bytes(network: nn.Module, shape: tuple[int, ...]) -> int:
    """The bytes that are alive between the forward and the backward pass, weights and output left out."""
    with LiveBytes() as live:
        copy = live.shapes_of(network)
        recompute_activations(copy)
        output = copy(torch.zeros(shape, requires_grad=True))
        return live.now - output.untyped_storage().nbytes()


@pytest.mark.parametrize("coverage", [["attention"], ["all"]])
@pytest.mark.parametrize("make", [tiny_models.sd15, tiny_models.sdxl, tiny_models.flux])
def test_an_adapter_gets_the_same_gradients(make: Make, coverage: list[str]) -> None:
    found: list[list[Tensor]] = []
    for less in (True, False):
        model, inputs = make()
        model.requires_grad_(False)
        trainable = Trainable({"unet": model}, {"unet": choose_modules(model, coverage)}, rank=3)
        if less:
            trainable.recompute_activations()
        for parameter in trainable.parameters():
            torch.manual_seed(7)
            parameter.data.normal_(0, 0.1)
        model(**inputs, return_dict=False)[0].square().mean().backward()
        found.append([parameter.grad.clone() for parameter in trainable.parameters()])
        trainable.detach()
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert all(float(one.norm()) > 0 for one in found[0])


def test_it_goes_together_with_gradient_checkpointing() -> None:
    found: list[Tensor] = []
    for less in (True, False):
        model, inputs = tiny_models.sd15()
        model.requires_grad_(False).train()
        model.enable_gradient_checkpointing()
        trainable = Trainable({"unet": model}, {"unet": choose_modules(model, ["attention"])}, rank=3)
        if less:
            trainable.recompute_activations()
        (parameter,) = trainable.parameters()
        torch.manual_seed(7)
        parameter.data.normal_(0, 0.1)
        model(**inputs, return_dict=False)[0].square().mean().backward()
        found.append(parameter.grad.clone())
    assert torch.equal(*found)
    assert float(found[0].norm()) > 0


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_input_gets_the_same_gradient(precision: torch.dtype) -> None:
    network, x = gated(), torch.randn(3, 6, 9, 5)
    expected = gradient(network, x, precision)
    handles = recompute_activations(network)
    assert torch.equal(gradient(network, x, precision), expected)
    assert float(expected.norm()) > 0
    assert len(handles) == 2 + 2 + 2 + 1  # the network's own, the norms, the convolution, the wide layer


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 6), nn.LayerNorm(5)])
def test_a_norm_is_made_again_with_the_weights_that_autocast_made(norm: Any) -> None:
    for weight in norm.bfloat16().requires_grad_(False).parameters():
        weight.normal_()
    x = torch.randn(3, 6, 5)
    expected = norm.float()(x)
    assert torch.equal(recompute._normed(norm.bfloat16(), x, norm.weight.float()), expected)


def test_what_can_be_made_again_is_not_kept() -> None:
    shape = (3, 6, 9, 5)
    rows = 3 * 5 * 3  # the convolution has stride 2
    numbers = math.prod(shape) + rows * 10 + 2 * 3 * 2 + 2 * rows  # inputs of both norms, their means and deviations
    assert kept_bytes(gated(), shape) == 4 * numbers


def test_a_layer_with_wider_input_keeps_what_it_made(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = gated(), torch.randn(3, 6, 9, 5)
    less = kept_bytes(network, x.shape)
    monkeypatch.setattr(recompute, "NARROW", 9)
    assert kept_bytes(network, x.shape) == less + 4 * 45 * 80
    expected = gradient(network, x)
    handles = recompute_activations(network)
    assert len(handles) == 6
    assert torch.equal(gradient(network, x), expected)


def test_a_wide_product_is_repeated_once_and_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = list[Any](), list[Tensor]()

    class Product(recompute._WideProduct):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

        def output(self) -> Tensor:
            asked.append(super().output())
            return asked[-1]

    monkeypatch.setattr(recompute, "_WideProduct", Product)
    network = gated()
    recompute_activations(network)
    gradient(network, torch.randn(3, 6, 9, 5))
    assert len(asked) > 1
    assert all(one is asked[0] for one in asked)
    assert [product._output for product in made] == [None]


@pytest.mark.parametrize("name", ["conv", "norm", "layer_norm", "wide"])
def test_what_is_trained_itself_gets_its_gradient(name: str) -> None:
    x, found = torch.randn(3, 6, 9, 5), list[Tensor]()
    for watched in (False, True):
        network = gated()
        layer = network.get_submodule(name).requires_grad_(True)
        if watched:
            recompute_activations(network)
        gradient(network, x)
        found.append(layer.weight.grad)
    assert torch.equal(*found)
    assert float(found[0].norm()) > 0


def test_a_convolution_that_pads_in_another_way_is_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular")).requires_grad_(False)
    assert len(recompute_activations(network)) == 2


def test_numbers_that_are_not_kept_cannot_be_used_unseen() -> None:
    x = torch.randn(3, 5, 4, 2).to(memory_format=torch.channels_last)
    outline = recompute._shape_of(x)()
    assert (outline.shape, outline.stride()) == (x.shape, x.stride())
    assert bool(outline.isnan().all())


def test_an_error_on_the_way_leaves_autograd_as_it_was() -> None:
    network = gated()
    recompute_activations(network)
    with pytest.raises(RuntimeError, match="number of channels"):
        network(torch.randn(3, 7, 9, 5, requires_grad=True))
    y = F.silu(torch.randn(3, requires_grad=True))
    (y * y).sum()
    product = y * torch.ones(3, requires_grad=True)
    assert product.grad_fn._saved_self is y  # kept as it is, by nobody's hook


def test_nothing_is_watched_without_gradients() -> None:
    network, x = gated(), torch.randn(3, 6, 9, 5)
    expected = network(x)
    recompute_activations(network)
    with torch.no_grad():
        assert torch.equal(network(x), expected)


def test_detaching_leaves_no_hook() -> None:
    def hooks(network: nn.Module) -> int:
        return sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in network.modules())

    network = gated()
    trainable = Trainable({"model": network}, {"model": ["back"]}, rank=2)
    before = hooks(network)
    trainable.recompute_activations()
    assert hooks(network) == before + 7
    trainable.detach()
    assert hooks(network) == 0
