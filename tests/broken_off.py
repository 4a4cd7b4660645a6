"""Errors in the middle of operations on a live model, and what must be as before after each of them.

An operation is run once to count the lines of ``lorica.runtime`` that it goes through. Then it is run on a fresh model
for one after another of these lines, and an error is raised there. Nothing here names what stands on the lines, so any
code may stand there.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from dis import opname
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

import lorica
from other_thread import elsewhere

RUNTIME = str(Path(lorica.__file__).parent / "runtime")
ERRORS = (KeyboardInterrupt, MemoryError)  # in turn: one that `except Exception` lets through, and one that it does not
OVER = 6  # lines at the end at which an operation may be done: an error there may leave it done
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks", "_backward_hooks")

Facts = dict[str, Any]


@dataclass
class Subject:
    """A live model in some state, made anew for each error.

    Args:
        loras: its adapters.
        run: runs the model without changing anything, and returns what it gives.
        pipeline: the pipeline that the adapters are attached to, if it is one with tokenizers or schedules.
        call: calls the pipeline, which may end a schedule, and returns the picture and the strengths of each step.
    """

    loras: lorica.Loras
    run: Callable[[], list[Tensor]]
    pipeline: Any = None
    call: Callable[[], Any] = lambda: None


Operation = Callable[[Subject], Any]


class Broken:
    """Raises an error at one line of the runtime, counted from the beginning of a block; without a line it counts.

    Attributes:
        count: the lines that were run.
        where: the line at which the error was raised; empty if it never came.
        swallowed: whether the error was raised and did not come out of the block.
    """

    def __init__(self, line: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.count, self.where, self.swallowed = 0, "", False
        self._line, self._error = line, error
        self._inside: dict[int, set[int]] = {}  # frame -> the lines of the ``with`` statements that it is inside

    def __enter__(self) -> Broken:
        self._outside = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, kind: Any, *_: object) -> bool:
        sys.settrace(self._outside)
        self.swallowed = bool(self.where) and kind is None
        return bool(self.where) and kind is self._error

    def _called(self, frame: FrameType, event: str, _: Any) -> Any:
        del event
        return self._ran if frame.f_code.co_filename.startswith(RUNTIME) else None

    def _ran(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "return" and opname[frame.f_code.co_code[frame.f_lasti]] != "YIELD_VALUE":
            self._inside.pop(id(frame), None)
        if event == "line" and not self.where and not self._leaves(frame):
            self.count += 1
            if self.count - 1 == self._line:
                code = frame.f_code
                self.where = f"{code.co_name} ({Path(code.co_filename).relative_to(RUNTIME)}:{frame.f_lineno})"
                raise self._error
        return self._ran

    def _leaves(self, frame: FrameType) -> bool:
        """Tell whether the line is that of a ``with`` statement which is being left.

        No signal is handled there: Python asks for signals after calls, and the one before was within the block.
        """
        if frame.f_lineno not in _lines_of_with(frame.f_code.co_filename):
            return False
        inside = self._inside.setdefault(id(frame), set())
        leaves = frame.f_lineno in inside
        (inside.discard if leaves else inside.add)(frame.f_lineno)
        return leaves


@cache
def _lines_of_with(path: str) -> frozenset[int]:
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    found = (node for node in ast.walk(tree) if isinstance(node, ast.With))
    return frozenset(line for node in found for line in (node.lineno, *(one.context_expr.lineno for one in node.items)))


def facts_of(subject: Subject) -> Facts:
    """Return all that can be seen of a live model; asking changes it, and takes the adapters off at last."""
    return {**_told(subject), **_after_calls(subject), **_after_another_thread(subject), **_after_detaching(subject)}


def differences(one: Facts, other: Facts) -> list[str]:
    return [name for name in one.keys() | other.keys() if not same(one.get(name), other.get(name))]


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal, tensors in them bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def check_all_or_nothing(
    make: Callable[[], Subject], operation: Operation, lines: Callable[[int], Iterable[int]]
) -> int:
    """Assert that an operation that is broken off changed nothing, and that all goes on as if it had never begun.

    Args:
        make: makes the model, each time the same.
        operation: what is broken off.
        lines: the lines at which it is broken off, of so many that it has.

    Returns:
        How many errors were raised.
    """
    before, subject = facts_of(make()), make()
    operation(subject)
    done, total = facts_of(subject), lines_of(make, operation)
    raised = 0
    for line in lines(total):
        error, subject = ERRORS[raised % len(ERRORS)], make()
        with Broken(line, error) as broken:
            operation(subject)
        assert broken.where, f"line {line} of {total} never came"
        assert not broken.swallowed, f"{error.__name__} at {broken.where} was swallowed"
        facts = facts_of(subject)
        wrong = differences(facts, before)
        if wrong and total - line <= OVER:
            wrong = differences(facts, done)
        assert not wrong, (
            f"after {error.__name__} at {broken.where}, line {line} of {total}: {', '.join(sorted(wrong))}"
        )
        raised += 1
    return raised


def lines_of(make: Callable[[], Subject], operation: Operation) -> int:
    subject = make()
    with Broken() as counted:
        operation(subject)
    return counted.count


def some(name: str, count: int) -> Callable[[int], Iterable[int]]:
    """Return what chooses about so many lines, spread evenly, others for another name."""

    def chosen(total: int) -> Iterable[int]:
        step = max(total // count, 1)
        return range(sum(map(ord, name)) % step, total, step)

    return chosen


def _told(subject: Subject) -> Facts:
    loras = subject.loras
    told: Facts = {name: getattr(loras, name) for name in ("names", "active", "strengths", "fused")}
    told |= {"values": {name: loras[name] for name in loras.names}, "summary": loras.summary()}
    return {**told, **_looks(subject, "now"), "outputs": _result(subject.run), "outputs again": _result(subject.run)}


def _after_calls(subject: Subject) -> Facts:
    calls = {"first call": _result(subject.call), "second call": _result(subject.call)}
    return {**calls, "strengths after": subject.loras.strengths}


def _after_another_thread(subject: Subject) -> Facts:
    loras = subject.loras
    facts: Facts = {"set by another thread": repr(elsewhere(lambda: loras.set({})))}
    loras.set({name: 0.2 for name in loras.names if name not in loras.fused})
    return {**facts, "outputs at other strengths": _result(subject.run)}


def _after_detaching(subject: Subject) -> Facts:
    detached = _result(subject.loras.detach)
    return {"detached": detached, **_looks(subject, "detached"), "outputs detached": _result(subject.run)}


def _result(action: Callable[[], Any]) -> Any:
    """Return what comes of an action that some states refuse."""
    try:
        return action()
    except lorica.LoRAError as error:
        return str(error)


def _looks(subject: Subject, when: str) -> Facts:
    """Return what the parts of a model look like from outside."""
    modules = {
        f"{part}.{path}": module
        for part, root in subject.loras.components.items()
        for path, module in root.named_modules()
    }
    weights = [root.state_dict() for root in subject.loras.components.values()]
    looks = {
        "modules": [(path, type(module).__name__) for path, module in modules.items()],
        "attributes": [(path, sorted(vars(module))) for path, module in modules.items()],
        "hooks": [(path, _hooks(module)) for path, module in modules.items()],
        "weights": [{name: tensor.clone() for name, tensor in one.items()} for one in weights],
        "words": sorted(subject.pipeline.tokenizer.get_vocab()) if subject.pipeline is not None else [],
    }
    return {f"{name} {when}": look for name, look in looks.items()}


def _hooks(module: nn.Module) -> list[int]:
    return [len(getattr(module, name)) for name in HOOKS]
