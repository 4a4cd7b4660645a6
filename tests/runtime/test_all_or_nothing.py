"""An error at any line of an operation leaves the adapters and the model as they were."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lorica
from lorica.adapters import Adapter, Full, LoCon, LoRA, Norm
from lorica.errors import StateError
from lorica.runtime.loras import Loras

RUNTIME = str(Path(lorica.__file__).parent / "runtime")
LAST = ("changing", "using", "regions (live.py")  # their last lines: the operation is over
X = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(2))
Operation = Callable[[lorica.Loras], Any]


class BrokenOffError(BaseException):
    """What is raised at a line, as a keyboard interrupt may be."""


class At:
    """Raises at one line of the engine, counted from the beginning of an operation."""

    def __init__(self, line: int) -> None:
        self.left, self.where = line, ""

    def __enter__(self) -> At:
        sys.settrace(self._called)
        return self

    def __exit__(self, kind: Any, *_: object) -> bool:
        sys.settrace(None)
        return kind is BrokenOffError

    def _called(self, frame: FrameType, event: str, _: Any) -> Any:
        del event
        return self._line if frame.f_code.co_filename.startswith(RUNTIME) else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and not self.where:
            self.left -= 1
            if self.left < 0:
                self.where = f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
                raise BrokenOffError
        return self._line


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


def make() -> tuple[nn.Sequential, lorica.Loras]:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 5, (3, 2), padding=1), nn.GroupNorm(5, 5)
    model = nn.Sequential(conv, norm, nn.Flatten(), nn.Linear(120, 7), nn.Linear(7, 4, bias=False))
    loras = lorica.attach(model)
    for name, strength in (("a", 0.3), ("b", 0.7), ("c", -0.4)):
        loras.load(sample_adapter(name), name=name, strength=strength)
    loras.fuse({"c": 0.5})
    return model, loras


def within(context: Any) -> None:
    with context:
        pass


OPERATIONS: dict[str, Operation] = {
    "load": lambda loras: loras.load(sample_adapter("d"), name="d"),
    "load what has no factors": lambda loras: loras.load(sample_adapter("c"), name="e"),
    "load into the same rows": lambda loras: loras.load(sample_adapter("a"), name="a", replace=True),
    "load in the place of another": lambda loras: loras.load(sample_adapter("d"), name="a", replace=True),
    "set": lambda loras: loras.set({"a": 1.0}),
    "using": lambda loras: within(loras.using({"a": 2.0})),
    "per_sample": lambda loras: loras.per_sample([{"a": 1.0}, {"b": 0.5}]),
    "disable": lambda loras: loras.disable(),
    "fuse": lambda loras: loras.fuse({"a": 0.5, "b": 0.2}),
    "fuse again": lambda loras: loras.fuse({"c": 1.5}),
    "fuse for good": lambda loras: loras.fuse({"a": 1.5}, backup="none"),
    "unfuse": lambda loras: loras.unfuse(),
    "remove": lambda loras: loras.remove("a"),
    "remove a fused one": lambda loras: loras.remove("c"),
    "clear": lambda loras: loras.clear(),
    "detach": lambda loras: loras.detach(),
    "reserve": lambda loras: loras.reserve(8),
    "limit_memory": lambda loras: loras.limit_memory(0),
    "regions": lambda loras: loras.regions({"a": torch.ones(4, 4)}),
}


SHORT = ("disable", "limit_memory", "regions")  # operations of few lines


@torch.no_grad()
def state(model: nn.Module, loras: lorica.Loras) -> tuple[Any, list[Tensor]]:
    """Return what there is to know of the adapters, and the model's output and weights."""
    table = loras.summary()
    told = (loras.names, loras.strengths, loras.fused, loras.active, table.lines, table.enabled, table.limited)
    return told, [model(X), *(tensor.clone() for tensor in model.state_dict().values())]


def broken_off(operation: Operation, lines: Iterator[int]) -> int:
    """Break an operation off at these lines, each on a new model. Returns how many of them it had."""
    fresh, _ = make()
    base, keys = lorica.attach(fresh), list(fresh.state_dict())
    base.detach()
    pristine = list(fresh.state_dict().values())
    for number, line in enumerate(lines):
        model, loras = make()
        told, tensors = state(model, loras)
        with At(line) as at:
            operation(loras)
        if not at.where:
            return number
        if at.where.startswith(LAST):
            continue
        told_after, tensors_after = state(model, loras)
        assert told_after == told, at.where
        assert all(map(torch.equal, tensors_after, tensors)), at.where
        loras.set({"a": 0.2})
        model(X)
        loras.detach()
        assert list(model.state_dict()) == keys, at.where
        assert all(map(torch.equal, model.state_dict().values(), pristine)), at.where
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()), at.where
        assert not any("lorica" in name for module in model.modules() for name in vars(module)), at.where
    raise AssertionError("it went on for ever")


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_breaks_off_changes_nothing(name: str) -> None:
    step = 7 if name in SHORT else 97
    start = sum(map(ord, name)) % step  # another one for each operation
    assert broken_off(OPERATIONS[name], iter(range(start, 10**6, step))) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_breaks_off_at_any_line_changes_nothing(name: str) -> None:
    assert broken_off(OPERATIONS[name], iter(range(10**6))) > 50


def test_a_refused_operation_leaves_the_model_to_those_it_belongs_to() -> None:
    model, loras = make()
    second = Loras({"model": model})  # as if it had been attached twice before anything was loaded
    for operation in (OPERATIONS["load"], lambda other: other.set({})):
        with pytest.raises(StateError, match="already belongs to another"):
            operation(second)
    assert lorica.attach(model) is loras
    before = model(X)
    loras.set({})
    assert not torch.equal(model(X), before)


def test_an_operation_goes_through_after_one_that_broke_off() -> None:
    model, loras = make()
    other, expected = make()
    for operation in (OPERATIONS["unfuse"], OPERATIONS["load"], OPERATIONS["set"]):
        for line in (3, 60, 110):
            with At(line) as at:
                operation(loras)
            assert at.where
        operation(loras)
        operation(expected)
        with torch.no_grad():
            assert torch.equal(model(X), other(X))
