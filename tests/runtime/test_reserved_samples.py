"""Sets for each sample in a compiled model: room for them is reserved, and one graph serves all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lorica
from lorica.adapters import Adapter
from lorica.errors import StateError
from sample_layers import make_lora, relative_error

FP32_NOISE = 4e-6  # relative; worst measured 4e-7


class Model(nn.Module):
    """A convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.to_q = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.to_q(self.conv(x).flatten(2).transpose(1, 2))


def make() -> tuple[Model, Adapter, Adapter, Tensor]:
    torch.manual_seed(0)
    model = Model().eval().requires_grad_(False)
    one, other = (
        Adapter({"model": {path: make_lora(model.get_submodule(path), rank=rank) for path in ("conv", "to_q")}})
        for rank in (3, 2)
    )
    return model, one, other, torch.randn(4, 3, 7, 9)


@torch.no_grad()
def test_one_graph_serves_loads_sets_for_samples_and_what_is_fused_beside() -> None:
    model, one, other, x = make()
    loras = lorica.attach(model)
    loras.reserve(rank=8, samples=4)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(x)
    steps = {
        "load": lambda: loras.load(one, name="a"),
        "load another": lambda: loras.load(other, name="b", strength=0.5),
        "a set for each of four": lambda: loras.per_sample([{"a": 1.0}, {"b": 0.7}, {}, {"a": 0.2, "b": -1.0}]),
        "a set for each of two": lambda: loras.per_sample([{"a": 1.0}, {"b": 0.7}], guidance=2),
        "two, one half": lambda: loras.per_sample([{"a": 1.0}, {"b": 0.7}], guidance=1),
        "by block": lambda: loras.set({"a": {"model": {"conv": 0.1, "to_q": 0.9}}}),
        "swap to another rank": lambda: loras.load(other, name="a", replace=True),
        "fuse beside live": lambda: loras.fuse({"b": 0.3}),
        "disable": loras.disable,
        "enable": loras.enable,
        "unfuse": loras.unfuse,
        "remove": lambda: loras.remove("a"),
        "clear": loras.clear,
    }
    with torch._dynamo.config.patch(error_on_recompile=True):
        for name, step in steps.items():
            step()
            assert relative_error(compiled(x), model(x)) < FP32_NOISE, name


@torch.no_grad()
def test_each_sample_gets_its_own_set_as_if_it_were_alone() -> None:
    model, one, other, x = make()
    loras = lorica.attach(model)
    loras.reserve(rank=5, samples=3)
    loras.load(one, name="a")
    loras.load(other, name="b")
    compiled = torch.compile(model, backend="aot_eager")
    sets = [{"a": 1.0}, {"b": 0.6}, {}]
    loras.per_sample(sets)
    got = compiled(x[:3])
    for index, strengths in enumerate(sets):
        loras.set(strengths)
        assert relative_error(got[index], model(x[index : index + 1])[0]) < FP32_NOISE


def test_more_sets_than_rows_are_refused_by_name() -> None:
    model, one, _, x = make()
    loras = lorica.attach(model)
    loras.reserve(rank=4, samples=2)
    loras.load(one, name="a")
    before = model(x)
    with pytest.raises(StateError, match=r"sets for 3 samples, but reserve\(\) set rows aside for 2"):
        loras.per_sample([{"a": 1.0}] * 3)
    assert torch.equal(model(x), before)
