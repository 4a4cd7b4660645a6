"""An eager forward: every road gives the same, only what acts is read, and nobody else's tensor is written to."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lorica
from lorica.adapters import LoRA
from lorica.runtime.bank.apart import Apart, WholeApart
from lorica.runtime.bank.bank import CHILD, apart, products, roads, rows
from lorica.runtime.bank.roads import Stacked, Whole
from sample_layers import LAYERS, make_lora, moved, one, relative_error, sample_input

FP32_NOISE = 2e-6  # relative; as in the contracts
POINTS = {  # convolutions of one point that are no linear layers
    "strided 1x1": lambda: nn.Conv2d(5, 7, 1, stride=2),
    "padded 1x1": lambda: nn.Conv2d(5, 7, 1, padding=1),
    "padded and strided 1x1": lambda: nn.Conv2d(5, 7, 1, padding=(4, 5), stride=2),  # as many points as before
}
SAMPLES = [{"a": 0.7}, {"b": -1.3}, {"c": 0.4, "a": 0.2}]


def thin_of(layer: nn.Module) -> Any:
    return getattr(layer, CHILD).content.thin


def attached(layer: nn.Module) -> tuple[nn.Sequential, Any, dict[str, LoRA]]:
    """Return a model with three adapters, all off."""
    model = nn.Sequential(layer)
    loras = lorica.attach(model)
    changes = {name: make_lora(layer, rank=rank) for name, rank in (("a", 2), ("b", 3), ("c", 4))}
    for name, change in changes.items():
        loras.load(one(change), name=name, strength=0.0)
    return model, loras, changes


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("onednn", [0, 2**60])
@pytest.mark.parametrize("name", LAYERS | POINTS)
@torch.no_grad()
def test_all_roads_give_what_the_changed_weight_gives(
    name: str, onednn: int, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    for module in (roads, apart):
        monkeypatch.setattr(module, "is_less_work", lambda *_: whole)
    monkeypatch.setattr(products, "WORK_FOR_ONEDNN", onednn)
    monkeypatch.setattr(rows, "APART", 0)
    layer = (LAYERS | POINTS)[name]()
    plain = copy.deepcopy(layer)
    model, loras, changes = attached(layer)
    x = torch.cat([sample_input(layer) for _ in range(6)])  # twelve rows
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
def test_the_road_is_the_one_with_the_least_work() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(40, 30)  # a whole weight is as much work as 17 rows
    model, loras, _ = attached(layer)
    x = torch.randn(3, 50, 40)
    for strengths, road in (({"a": 0.7}, Stacked), ({"a": 0.7, "b": 0.1}, Stacked)):
        loras.set(strengths)
        model(x)
        assert type(thin_of(layer)._road) is road
    loras.per_sample([{"a": 1.0}, {"b": 1.0}, {"c": 1.0}])
    model(x)
    assert type(thin_of(layer)._road) is Apart
    loras.per_sample([{"a": 1.0}, {"a": 0.5}, {"a": 0.1}])
    model(x)
    assert type(thin_of(layer)._road) is Stacked  # no sample has rows that another lacks
    loras.set({})
    loras.load(one(make_lora(layer, rank=18)), name="wide")
    loras.set({"wide": 1.0})
    model(x)
    assert type(thin_of(layer)._road) is Whole
    loras.set({"wide": 0.9})
    model(x[:1, :17])  # too few points for building a weight
    assert type(thin_of(layer)._road) is Stacked
    loras.load(one(make_lora(layer, rank=19)), name="wider")
    loras.per_sample([{"wide": 1.0}, {"wider": 1.0}, {"a": 1.0}])
    model(x)
    assert type(thin_of(layer)._road) is WholeApart


@torch.no_grad()
def test_only_rows_that_act_are_read_and_a_layer_at_strength_0_is_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 41))
    loras = lorica.attach(model)
    for name, rank in (("a", 2), ("b", 3), ("c", 4)):
        layers = {str(index): make_lora(model[index], rank=rank) for index in range(2)}
        loras.load(lorica.Adapter({"model": layers}), name=name)
    x = torch.randn(2, 3, 40)
    loras.set({"a": 1.0, "c": {"model": {"*": 0.5, "1": 0.0}}})
    thin_of(model[0]).down[2:5] = torch.nan  # the rows of b: reading them would spoil the output
    model(x)
    first, second = (thin_of(layer)._road for layer in model)
    assert (len(first.down), len(second.down)) == (6, 2)
    assert not model(x).isnan().any()
    assert second.strength == pytest.approx(0.75)  # one number where one adapter acts: alpha / rank = 1.5 / 2
    loras.set({"a": {"model": {"*": 1.0, "0": 0.0}}})
    before = torch.nn.functional.linear(x, model[0].weight, model[0].bias)
    assert torch.equal(model[0](x), before)
    assert not thin_of(model[0]).acts()


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


@torch.no_grad()
def test_a_plain_layers_own_output_is_written_to() -> None:
    torch.manual_seed(0)
    layer, outputs = nn.Linear(40, 30), []
    lorica.attach(nn.Sequential(layer)).load(one(make_lora(layer)), name="a")
    bank = getattr(layer, CHILD)
    y = nn.functional.linear(torch.randn(3, 40), layer.weight)
    outputs.append(bank(torch.randn(3, 40), y))
    assert outputs[0] is y


def test_with_gradients_the_output_is_new_and_they_pass() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(40, 30).requires_grad_(False)
    change, x = make_lora(layer), torch.randn(3, 40, requires_grad=True)
    expected = moved(layer, [(change, 1.0)])
    (wanted,) = torch.autograd.grad(expected(x).square().sum(), x)
    model = nn.Sequential(layer)
    lorica.attach(model).load(one(change), name="a")
    (got,) = torch.autograd.grad(model(x).square().sum(), x)
    y = nn.functional.linear(x, layer.weight)
    assert getattr(layer, CHILD)(x, y) is not y
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


@pytest.mark.parametrize("whole", [True, False])
@torch.no_grad()
def test_rows_that_a_swap_writes_over_are_read_anew(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(roads, "is_less_work", lambda *_: whole)
    layer = nn.Linear(40, 30)
    plain, x = copy.deepcopy(layer), torch.randn(3, 40)
    model, loras, changes = attached(layer)
    loras.set({"a": 0.7, "c": 0.7})  # with a gap, so that rows are copied
    model(x)
    memory, other = thin_of(layer).down.data_ptr(), make_lora(layer, rank=2)
    loras.load(one(other), name="a", strength=0.7, replace=True)
    assert thin_of(layer).down.data_ptr() == memory
    assert relative_error(model(x), moved(plain, [(other, 0.7), (changes["c"], 0.7)])(x)) < FP32_NOISE


@pytest.mark.parametrize("grad", [True, False])
def test_a_picture_without_a_batch(grad: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 7, 3, padding=1)
    change, x = make_lora(layer), torch.randn(5, 8, 9)
    expected, model = moved(layer, [(change, 0.7)])(x), nn.Sequential(layer)
    lorica.attach(model).load(one(change), name="a", strength=0.7)
    with torch.set_grad_enabled(grad):
        assert relative_error(model(x), expected) < FP32_NOISE


@pytest.mark.parametrize("name", ["linear wide", "conv2d 1x1", "conv2d wide"])
@torch.no_grad()
def test_samples_take_the_rows_of_their_adapters_in_any_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(apart, "is_less_work", lambda *_: False)
    layer = LAYERS[name]()
    plain, model = copy.deepcopy(layer), nn.Sequential(layer)
    changes, loras = [make_lora(layer, rank=2) for _ in range(4)], lorica.attach(model)
    for index, change in enumerate(changes):
        loras.load(one(change), name=str(index), strength=0.0)
    x = torch.cat([sample_input(layer), sample_input(layer)])
    for order in ([0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0]):
        loras.per_sample([{str(index): 0.6} for index in order])
        rows = [moved(plain, [(changes[index], 0.6)])(x[row : row + 1]) for row, index in enumerate(order)]
        assert relative_error(model(x), torch.cat(rows)) < FP32_NOISE
        road = thin_of(layer)._road
        assert type(road) is Apart
        assert road.strength == pytest.approx(0.6 * 0.75)  # alpha / rank
        assert (road.down.data_ptr() == thin_of(layer).down.data_ptr()) is (order == [0, 1, 2, 3])  # a view of the bank
