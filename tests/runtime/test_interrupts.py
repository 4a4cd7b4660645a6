"""Forwards that break off, and other threads while nothing is loaded: the promise holds as long as the engine is on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lorica
from lorica.adapters import Adapter
from other_thread import elsewhere, refused
from sample_layers import make_lora


class Slow(nn.Module):
    """A model in whose middle something happens."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 4)
        self.between: Callable[[], Any] = lambda: None

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        self.between()
        return self.second(x)


def make() -> tuple[Slow, lorica.Loras, Adapter, Tensor]:
    torch.manual_seed(0)
    model = Slow().requires_grad_(False)
    adapter = Adapter({"model": {path: make_lora(model.get_submodule(path)) for path in ("first", "second")}})
    return model, lorica.attach(model), adapter, torch.randn(3, 5)


@pytest.mark.parametrize("fused", [False, True], ids=["nothing loaded", "all fused"])
def test_another_thread_cannot_change_a_forward_that_runs(fused: bool) -> None:
    model, loras, adapter, x = make()
    if fused:
        loras.load(adapter, name="a")
        loras.fuse({"a": 1.0})
    expected, results = model(x), list[Any]()
    changes = [loras.unfuse, loras.clear] if fused else [lambda: loras.load(adapter, name="b"), loras.detach]
    model.between = lambda: results.extend(elsewhere(change) for change in changes)
    assert torch.equal(model(x), expected)
    assert all(refused(result, "is making a picture") for result in results)
    model.between = lambda: None
    assert not isinstance(elsewhere(changes[0]), BaseException)  # and afterwards it may


def test_an_interrupt_in_a_forward_leaves_no_thread_locked_out() -> None:
    model, loras, adapter, x = make()
    loras.load(adapter, name="a")

    def interrupt() -> None:
        raise KeyboardInterrupt

    model.between = interrupt
    with pytest.raises(KeyboardInterrupt):
        model(x)
    model.between = lambda: None
    assert elsewhere(lambda: loras.set({"a": 0.5})) is None
    assert not torch.overrides._get_current_function_mode_stack() or torch.isfinite(elsewhere(lambda: model(x))).all()


def test_a_thread_that_died_in_a_forward_is_forgotten() -> None:
    model, loras, adapter, x = make()
    loras.load(adapter, name="a")

    def die() -> None:
        raise SystemExit

    model.between = die

    def run() -> None:
        with suppress(SystemExit):
            model(x)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    model.between = lambda: None
    loras.set({"a": 0.5})
    assert loras.strengths == {"a": 0.5}


def test_sets_for_samples_and_the_limit_on_memory_end_with_clear_and_detach() -> None:
    for end in ("clear", "detach"):
        model, loras, adapter, x = make()
        loras.load(adapter, name="a")
        loras.per_sample([{"a": 1.0}, {}, {"a": 0.2}])
        loras.limit_memory(0)
        getattr(loras, end)()
        loras.load(adapter, name="b")
        loras.load(adapter, name="c", strength=0.5)
        loras.set({"c": 1.0})
        assert loras.strengths == {"c": 1.0}
        assert torch.isfinite(model(x)).all()


def test_what_is_fused_may_stay_in_the_weights_for_good() -> None:
    model, loras, adapter, x = make()
    loras.load(adapter, name="a")
    loras.fuse({"a": 0.7})
    fused = model(x)
    loras.detach(keep_fused=True)
    assert torch.equal(model(x), fused)
    assert not model._forward_hooks
    again = lorica.attach(model)  # the weights are the model's own now
    again.load(adapter, name="b")
    again.fuse({"b": 0.5})
    again.unfuse()
    again.detach()
    assert torch.equal(model(x), fused)
