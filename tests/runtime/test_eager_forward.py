"""An eager forward: right for every layer, layout and size; only what acts is read; no foreign tensor is written to."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lorica
from lorica.adapters import LoRA
from sample_layers import LAYERS, make_lora, moved, one, relative_error, sample_input

FP32_NOISE = 2e-6  # relative; as in the contracts
POINTS = {  # convolutions of one point that are no linear layers
    "strided 1x1": lambda: nn.Conv2d(5, 7, 1, stride=2),
    "padded 1x1": lambda: nn.Conv2d(5, 7, 1, padding=1),
    "padded and strided 1x1": lambda: nn.Conv2d(5, 7, 1, padding=(4, 5), stride=2),  # as many points as before
}
# Sizes at which other products are quicker than at the tiny ones.
LARGE = {
    "large linear": lambda: nn.Linear(320, 640),
    "large conv2d 1x1": lambda: nn.Conv2d(320, 160, 1),
    "large conv2d": lambda: nn.Conv2d(64, 96, 3, padding=1),
    "narrow linear": lambda: nn.Linear(12, 9),  # with fewer inputs and outputs than three adapters have ranks
}
SAMPLES = [{"a": 0.7}, {"b": -1.3}, {"c": 0.4, "a": 0.2}]


def input_of(layer: Any, name: str) -> Tensor:
    """Return a batch of two; for large layers with as many points as pictures have."""
    if name not in LARGE:
        return sample_input(layer)
    return (
        torch.randn(2, 300, layer.in_features)
        if hasattr(layer, "in_features")
        else torch.randn(2, layer.in_channels, 16, 20)
    )


def attached(layer: nn.Module) -> tuple[nn.Sequential, Any, dict[str, LoRA]]:
    """Return a model with three adapters, all off."""
    model = nn.Sequential(layer)
    loras = lorica.attach(model)
    changes = {name: make_lora(layer, rank=rank) for name, rank in (("a", 2), ("b", 3), ("c", 4))}
    for name, change in changes.items():
        loras.load(one(change), name=name, strength=0.0)
    return model, loras, changes


@pytest.mark.parametrize("name", LAYERS | POINTS | LARGE)
@torch.no_grad()
def test_every_layer_gives_what_the_changed_weight_gives(name: str) -> None:
    torch.manual_seed(0)
    layer = (LAYERS | POINTS | LARGE)[name]()
    plain = copy.deepcopy(layer)
    model, loras, changes = attached(layer)
    x = torch.cat([input_of(layer, name) for _ in range(6)])  # twelve rows
    last = x.to(memory_format=torch.channels_last) if x.ndim == 4 else x
    for strengths in ({"a": 0.7}, {"a": 0.4, "b": 0.4}, {"a": 0.7, "c": -1.3}):
        expected = moved(plain, [(changes[key], value) for key, value in strengths.items()])
        loras.set(strengths)
        assert relative_error(model(x), expected(x)) < FP32_NOISE
        assert relative_error(model(last), expected(x)) < FP32_NOISE
    for given in (x[:3], x[:6], x, last):
        parts: list[Tensor] = []
        halves = 1 if len(given) == 3 else 2
        for index, row in enumerate(given):
            own = SAMPLES[index // (len(given) // halves // 3) % 3]
            parts.append(moved(plain, [(changes[key], value) for key, value in own.items()])(row[None]))
        loras.per_sample(SAMPLES)
        assert relative_error(model(given), torch.cat(parts)) < FP32_NOISE


@torch.no_grad()
def test_what_is_off_is_not_read_and_a_layer_at_strength_0_is_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 41))
    plain = copy.deepcopy(model)
    changes = {name: [make_lora(layer, rank=rank) for layer in model] for name, rank in (("a", 2), ("b", 3), ("c", 4))}
    # In the product with strength 0 an infinite number would not vanish, but spoil the output.
    changes["b"] = [LoRA(change.down, torch.full_like(change.up, torch.inf)) for change in changes["b"]]
    loras = lorica.attach(model)
    for name, layers in changes.items():
        loras.load(lorica.Adapter({"model": {str(at): layer for at, layer in enumerate(layers)}}), name=name)
    x = torch.randn(2, 3, 40)
    assert not model(x).isfinite().all()
    loras.set({"a": 1.0, "c": {"model": {"*": 0.5, "1": 0.0}}})
    first = moved(plain[0], [(changes["a"][0], 1.0), (changes["c"][0], 0.5)])
    assert relative_error(model(x), moved(plain[1], [(changes["a"][1], 1.0)])(first(x))) < FP32_NOISE
    loras.set({"a": {"model": {"*": 1.0, "0": 0.0}}})
    assert torch.equal(model[0](x), plain[0](x))


class Kept(nn.Linear):
    """A layer that gives out what it keeps."""

    def forward(self, x: Tensor) -> Tensor:
        self.kept = super().forward(x)
        return self.kept


@torch.no_grad()
def test_an_output_that_somebody_else_has_is_not_written_to() -> None:
    torch.manual_seed(0)
    x, seen = torch.randn(3, 40), []
    for layer in (Kept(40, 30), nn.Linear(40, 30), nn.Linear(40, 30)):
        change = make_lora(layer)
        expected, plain = moved(layer, [(change, 1.0)])(x), nn.functional.linear(x, layer.weight, layer.bias)
        if len(seen) == 0 and type(layer) is nn.Linear:
            layer.register_forward_hook(lambda _, __, y: seen.append(y))
        elif type(layer) is nn.Linear:
            forward = layer.forward
            layer.forward = lambda x, forward=forward: seen.append(forward(x)) or seen[-1]  # type: ignore[method-assign]
        lorica.attach(nn.Sequential(layer)).load(one(change), name="a")
        got = layer(x)
        assert relative_error(got, expected) < FP32_NOISE
        assert torch.equal(layer.kept if isinstance(layer, Kept) else seen[-1], plain)
    assert len(seen) == 2


def test_with_gradients_the_output_is_new_and_they_pass() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(40, 30).requires_grad_(False)
    change, x = make_lora(layer), torch.randn(3, 40, requires_grad=True)
    expected = moved(layer, [(change, 1.0)])
    (wanted,) = torch.autograd.grad(expected(x).square().sum(), x)
    model = nn.Sequential(layer)
    lorica.attach(model).load(one(change), name="a")
    (got,) = torch.autograd.grad(model(x).square().sum(), x)
    assert relative_error(got, wanted) < FP32_NOISE


@torch.no_grad()
def test_strengths_written_between_two_forwards_act_in_the_second() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(40, 30)
    plain = copy.deepcopy(layer)
    model, loras, changes = attached(layer)
    x = torch.randn(3, 40)
    for value in (0.7, -0.2, 0.0, 1.3):
        loras.set({"a": value})
        assert relative_error(model(x), moved(plain, [(changes["a"], value)])(x)) < FP32_NOISE


@torch.no_grad()
def test_what_a_swap_writes_over_is_read_anew() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(40, 30)
    plain, x = copy.deepcopy(layer), torch.randn(3, 40)
    model, loras, changes = attached(layer)
    loras.set({"a": 0.7, "c": 0.7})  # with one between them that is off
    model(x)
    other = make_lora(layer, rank=2)
    loras.load(one(other), name="a", strength=0.7, replace=True)
    assert relative_error(model(x), moved(plain, [(other, 0.7), (changes["c"], 0.7)])(x)) < FP32_NOISE


class Views(nn.Linear):
    """A layer whose output is a view of something larger, turned around."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias).transpose(-1, -2).contiguous().transpose(-1, -2)


@pytest.mark.parametrize("grad", [True, False])
def test_an_output_that_is_not_contiguous(grad: bool) -> None:
    torch.manual_seed(0)
    for layer, x in (
        (Views(40, 30), torch.randn(3, 8, 40)),
        (nn.Linear(40, 30), torch.randn(8, 40, 3).transpose(1, 2)),
    ):
        changes, loras = (
            [(make_lora(layer), 0.7), (make_lora(layer, rank=2), -1.3)],
            lorica.attach(nn.Sequential(layer)),
        )
        expected = moved(layer, changes)(x)
        for index, (change, strength) in enumerate(changes):
            loras.load(one(change), name=str(index), strength=strength)
        with torch.set_grad_enabled(grad):
            assert relative_error(layer(x), expected) < FP32_NOISE


@pytest.mark.parametrize("grad", [True, False])
def test_a_picture_without_a_batch(grad: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 7, 3, padding=1)
    change, x = make_lora(layer), torch.randn(5, 8, 9)
    expected, model = moved(layer, [(change, 0.7)])(x), nn.Sequential(layer)
    lorica.attach(model).load(one(change), name="a", strength=0.7)
    with torch.set_grad_enabled(grad):
        assert relative_error(model(x), expected) < FP32_NOISE


@pytest.mark.parametrize("name", ["linear wide", "conv2d 1x1", "conv2d wide", "large linear", "large conv2d"])
@torch.no_grad()
def test_samples_take_the_rows_of_their_adapters_in_any_order(name: str) -> None:
    torch.manual_seed(0)
    layer = (LAYERS | LARGE)[name]()
    plain, model = copy.deepcopy(layer), nn.Sequential(layer)
    changes, loras = [make_lora(layer, rank=2) for _ in range(4)], lorica.attach(model)
    for index, change in enumerate(changes):
        loras.load(one(change), name=str(index), strength=0.0)
    x = torch.cat([input_of(layer, name), input_of(layer, name)])
    for order in ([0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0]):
        loras.per_sample([{str(index): 0.6} for index in order])
        rows = [moved(plain, [(changes[index], 0.6)])(x[row : row + 1]) for row, index in enumerate(order)]
        assert relative_error(model(x), torch.cat(rows)) < FP32_NOISE
