"""An error at any line of an operation leaves the adapters and the model as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import lorica
from broken_off import Broken, Operation, Subject, check_all_or_nothing, some
from lorica.adapters import Adapter, Full, LoCon, LoRA, Norm
from lorica.errors import StateError

X = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(2))


def thin(out: int, width: int, rank: int, seed: int, **more: Any) -> LoRA:
    dice = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, width, generator=dice) / width
    return LoRA(down, torch.randn(out, rank, generator=dice), 2.0, **more)


def sample_adapter(name: str) -> Adapter:
    torch.manual_seed(ord(name))
    core = LoCon(torch.randn(2, 3, 1, 1) / 4, torch.randn(2, 2, 3, 2) / 4, torch.randn(5, 2, 1, 1), 1.0)
    layers: dict[str, dict[str, Any]] = {
        "a": {"3": thin(7, 120, 2, 1, bias=torch.randn(7)), "4": thin(4, 7, 3, 2)},
        "b": {"0": core, "1": Norm(torch.randn(5), torch.randn(5))},
        "c": {"0": Full(torch.randn(5, 3, 3, 2) / 9), "3": thin(7, 120, 4, 3)},
        "d": {"4": thin(4, 7, 1, 4)},
    }
    return Adapter({"model": layers[name]})


def make() -> Subject:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 5, (3, 2), padding=1), nn.GroupNorm(5, 5)
    model = nn.Sequential(conv, norm, nn.Flatten(), nn.Linear(120, 7), nn.Linear(7, 4, bias=False))
    loras = lorica.attach(model)
    for name, strength in (("a", 0.3), ("b", 0.7), ("c", -0.4)):
        loras.load(sample_adapter(name), name=name, strength=strength)
    loras.fuse({"c": 0.5})

    def run() -> list[torch.Tensor]:
        with torch.no_grad():
            return [model(X)]

    return Subject(loras, run)


def within(context: Any) -> None:
    with context:
        pass


OPERATIONS: dict[str, Operation] = {
    "load": lambda it: it.loras.load(sample_adapter("d"), name="d"),
    "load what has no factors": lambda it: it.loras.load(sample_adapter("c"), name="e"),
    "load into the same rows": lambda it: it.loras.load(sample_adapter("a"), name="a", replace=True),
    "load in the place of another": lambda it: it.loras.load(sample_adapter("d"), name="a", replace=True),
    "set": lambda it: it.loras.set({"a": 1.0}),
    "using": lambda it: within(it.loras.using({"a": 2.0})),
    "per_sample": lambda it: it.loras.per_sample([{"a": 1.0}, {"b": 0.5}]),
    "disable": lambda it: it.loras.disable(),
    "fuse": lambda it: it.loras.fuse({"a": 0.5, "b": 0.2}),
    "fuse again": lambda it: it.loras.fuse({"c": 1.5}),
    "fuse for good": lambda it: it.loras.fuse({"a": 1.5}, backup="none"),
    "unfuse": lambda it: it.loras.unfuse(),
    "remove": lambda it: it.loras.remove("a"),
    "remove a fused one": lambda it: it.loras.remove("c"),
    "clear": lambda it: it.loras.clear(),
    "detach": lambda it: it.loras.detach(),
    "reserve": lambda it: it.loras.reserve(8),
    "limit_memory": lambda it: it.loras.limit_memory(0),
    "regions": lambda it: it.loras.regions({"a": torch.ones(4, 4)}),
    "regions in a block": lambda it: within(it.loras.regions({"a": torch.ones(4, 4)})),
    "forward": lambda it: it.run(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_breaks_off_changes_nothing(name: str) -> None:
    assert check_all_or_nothing(make, OPERATIONS[name], some(name, 12)) > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_breaks_off_at_any_line_changes_nothing(name: str) -> None:
    assert check_all_or_nothing(make, OPERATIONS[name], range) > 30


def test_an_operation_goes_through_after_one_that_broke_off() -> None:
    subject, expected = make(), make()
    for name in ("unfuse", "load", "set"):
        for line in (3, 60, 110):
            with Broken(line) as broken:
                OPERATIONS[name](subject)
            assert broken.where
        OPERATIONS[name](subject)
        OPERATIONS[name](expected)
        assert torch.equal(*subject.run(), *expected.run())


def test_a_refused_operation_leaves_the_model_to_those_it_belongs_to() -> None:
    model = nn.Sequential(nn.Linear(120, 7), nn.Linear(7, 4))
    pipe = type("Pipeline", (), {"components": {"model": model, "unet": nn.Linear(3, 4)}})()
    second, loras, x = lorica.attach(pipe), lorica.attach(model), torch.randn(2, 120)  # both before anything is loaded
    loras.load(Adapter({"model": {"0": thin(7, 120, 2, 1)}}), name="a")
    before = model(x)
    for refused in (lambda: second.load(Adapter({"model": {"1": thin(4, 7, 1, 4)}}), name="b"), lambda: second.set({})):
        with pytest.raises(StateError, match="already belongs to another"):
            refused()
    assert lorica.attach(model) is loras
    assert torch.equal(model(x), before)
    loras.set({})
    assert not torch.equal(model(x), before)
