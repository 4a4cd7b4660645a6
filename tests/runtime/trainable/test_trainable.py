"""Trainable factors: same output as the value they give back, gradients in one flat tensor, no trace afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lorica
from lorica.adapters import Adapter, LoRA
from lorica.errors import ConfigError, ShapeError, UnknownNameError
from lorica.runtime import Trainable
from sample_layers import LAYERS, relative_error, sample_input

FP32_NOISE = 2e-6  # relative; worst measured 5e-7 over all layers x 20 seeds


def make(name: str = "linear", **settings: float) -> tuple[nn.Sequential, Trainable]:
    torch.manual_seed(0)
    model = nn.Sequential(LAYERS[name]()).requires_grad_(False)
    trainable = Trainable({"model": model}, {"model": ["0"]}, rank=3, seed=5, **settings)
    return model, trainable


def disturb(trainable: Trainable) -> None:
    with torch.no_grad():
        for parameter in trainable.parameters():
            parameter += torch.randn_like(parameter) * 0.3


@pytest.mark.parametrize("name", LAYERS)
def test_the_trained_model_gives_what_the_adapter_gives(name: str) -> None:
    model, trainable = make(name, alpha=1.5)
    x = sample_input(model[0])
    base = model(x)
    disturb(trainable)
    trained, adapter = model(x), trainable.adapter()
    assert relative_error(trained, base) > 0.01
    with trainable.enabled(False):
        assert torch.equal(model(x), base)
    trainable.detach()
    assert torch.equal(model(x), base)
    lorica.attach(model).load(adapter, name="a")
    assert relative_error(model(x), trained) < FP32_NOISE


def test_training_starts_at_the_base_and_from_the_seed() -> None:
    model, trainable = make()
    x = sample_input(model[0])
    with_adapter = model(x)
    assert torch.equal(with_adapter, nn.functional.linear(x, model[0].weight, model[0].bias))
    twin = make()[1]
    assert torch.equal(trainable.parameters()[0], twin.parameters()[0])
    down = trainable.named_parameters()["model/0/down"]
    assert down.abs().sum() > 0
    other = Trainable({"model": model}, {"model": ["0"]}, rank=3, seed=6)
    assert not torch.equal(other.parameters()[0], trainable.parameters()[0])


def test_gradients_arrive_in_the_flat_parameter() -> None:
    model, trainable = make("conv2d strided")
    disturb(trainable)
    model(sample_input(model[0])).square().sum().backward()
    (flat,) = trainable.parameters()
    named = trainable.named_parameters()
    down, up = named.values()
    pieces = torch.cat([down.grad.flatten(), up.grad.t().flatten()])  # up lies column by column
    assert flat.grad is not None
    assert torch.equal(flat.grad, pieces)
    assert (flat.grad != 0).all()
    assert model[0].weight.grad is None
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    torch.optim.SGD([flat], lr=0.1).step()
    assert all(not torch.equal(parameter, before[name]) for name, parameter in named.items())
    trainable.zero_grad()
    assert not any(parameter.grad.any() for parameter in named.values())


def test_gradients_equal_those_written_out_by_hand() -> None:
    model, trainable = make("linear", alpha=1.5)
    disturb(trainable)
    named = trainable.named_parameters()
    x = sample_input(model[0])
    model(x).square().sum().backward()
    down, up = (named[f"model/0/{part}"].detach().clone().requires_grad_(True) for part in ("down", "up"))
    weight = model[0].weight + (1.5 / 3) * up @ down
    nn.functional.linear(x, weight, model[0].bias).square().sum().backward()
    assert relative_error(named["model/0/down"].grad, down.grad) < FP32_NOISE
    assert relative_error(named["model/0/up"].grad, up.grad) < FP32_NOISE


def test_masters_are_float32_whatever_the_base() -> None:
    model = nn.Sequential(nn.Linear(5, 7)).to(torch.bfloat16).requires_grad_(False)
    trainable = Trainable({"model": model}, {"model": ["0"]}, rank=2)
    disturb(trainable)
    output = model(torch.randn(3, 5, dtype=torch.bfloat16))
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    (flat,) = trainable.parameters()
    assert (flat.dtype, flat.grad.dtype) == (torch.float32, torch.float32)


def test_an_adapter_goes_in_and_comes_out_bit_for_bit() -> None:
    _, trainable = make("conv3d", alpha=2.0)
    disturb(trainable)
    adapter = trainable.adapter()
    again = make("conv3d", alpha=2.0)[1]
    assert again.adapter() != adapter
    again.copy_from(adapter)
    assert again.adapter() == adapter


def test_dropout_masks_are_a_function_of_the_key_and_scale_what_is_kept() -> None:
    model, trainable = make("linear", dropout=0.4)
    disturb(trainable)
    model.train()
    x = torch.randn(64, 5)
    trainable.set_dropout_key("7/2")
    first = model(x)
    torch.randn(9)  # the global generator does not matter
    assert torch.equal(model(x), first)
    trainable.set_dropout_key("7/3")
    assert not torch.equal(model(x), first)
    model.eval()
    assert torch.equal(model(x), model(x))
    named = trainable.named_parameters()
    with torch.no_grad():
        named["model/0/down"].copy_(torch.eye(3, 5))
        named["model/0/up"].fill_(1.0)
    model.train()
    change = (model(torch.ones(64, 5)) - nn.functional.linear(torch.ones(64, 5), model[0].weight, model[0].bias))[:, 0]
    kept = torch.unique((change * 0.6).round(decimals=4))
    assert set(kept.tolist()) == {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"rank": 0}, ConfigError, "rank must be at least 1"),
        ({"rank": 2, "alpha": -1.0}, ConfigError, "alpha must be above 0"),
        ({"rank": 2, "dropout": 1.0}, ConfigError, "below 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Trainable({"model": nn.Sequential(nn.Linear(2, 3))}, {"model": ["0"]}, **settings)


def test_unknown_layers_and_components_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(UnknownNameError, match="'1'"):
        Trainable({"model": model}, {"model": ["1"]}, rank=2)
    with pytest.raises(UnknownNameError, match="component 'unet'"):
        Trainable({"model": model}, {"unet": ["0"]}, rank=2)
    with pytest.raises(ConfigError, match="leave the component out"):
        Trainable({"model": model}, {"model": []}, rank=2)


def test_starting_from_an_adapter_that_does_not_fit_is_refused() -> None:
    _, trainable = make()
    with pytest.raises(ShapeError, match=r"expected down \(3, 5\)"):
        trainable.copy_from(Adapter({"model": {"0": LoRA(torch.zeros(2, 5), torch.zeros(7, 2))}}))
    with pytest.raises(ShapeError, match=r"not in both: model\.0, model\.1"):
        trainable.copy_from(Adapter({"model": {"1": LoRA(torch.zeros(3, 5), torch.zeros(7, 3))}}))
