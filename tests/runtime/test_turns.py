"""Two threads on one model's adapters: an error or correct results, never a mixture."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import nn

import lorica
from lorica.errors import LoRAError, StateError
from other_thread import elsewhere, refused
from sample_layers import make_lora, one


def make() -> tuple[nn.Sequential, lorica.Loras, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4))
    loras = lorica.attach(model)
    loras.load(one(make_lora(model[0])), name="a")
    loras.load(one(make_lora(model[2], rank=2), path="2"), name="b")
    loras.set({})
    return model, loras, torch.randn(3, 5)


def test_a_worker_that_changes_nothing_runs_with_what_is_set() -> None:
    model, loras, x = make()
    loras.set({"a": 0.7})
    assert torch.equal(elsewhere(lambda: model(x)), model(x))


def test_while_one_thread_uses_adapters_another_can_neither_change_nor_run_them() -> None:
    model, loras, x = make()
    loras.set({"b": 0.5})
    with loras.using({"a": 1.0}):
        before = model(x)
        assert refused(elsewhere(lambda: loras.set({"b": 1.0})), "(MainThread) holds these adapters")
        assert refused(elsewhere(lambda: loras.remove("b")), "cannot change the adapters now")
        assert refused(elsewhere(lambda: model(x)), "cannot run the model now")
        with loras.using({"b": 2.0}):  # the same thread may nest
            assert not torch.equal(model(x), before)
        assert refused(elsewhere(lambda: model(x)), "cannot run the model now")
        assert torch.equal(model(x), before)
    assert elsewhere(lambda: loras.strengths) == {"b": 0.5}
    assert elsewhere(lambda: loras.set({"a": 1.0})) is None


def test_a_change_by_another_thread_is_noticed_by_the_thread_that_had_set_its_own() -> None:
    model, loras, x = make()
    loras.set({"a": 0.7})
    mine = model(x)
    assert elsewhere(lambda: loras.set({"b": 1.0})) is None
    with pytest.raises(StateError, match="another thread has changed these adapters since"):
        model(x)
    loras.set({"a": 0.7})
    assert torch.equal(model(x), mine)


def test_a_change_in_the_middle_of_another_threads_forward_is_refused() -> None:
    model, loras, x = make()
    loras.set({"a": 0.7})
    expected = model(x)
    results: list[Any] = []
    model[1].register_forward_hook(lambda *_: results.append(elsewhere(lambda: loras.set({"b": 1.0}))) or None)
    assert torch.equal(model(x), expected)
    assert refused(results[0], "(MainThread) is making a picture")
    assert loras.strengths == {"a": 0.7}


def test_a_forward_that_fails_gives_the_turn_back() -> None:
    _, loras, _ = make()
    model = loras.components["model"]
    with pytest.raises(RuntimeError, match="shapes"):
        model(torch.randn(2, 3))
    assert elsewhere(lambda: loras.set({"b": 1.0})) is None


def test_many_threads_get_their_own_results_or_an_error() -> None:
    model, loras, x = make()
    wanted = [{"a": 1.0}, {"b": 1.0}, {"a": 0.3, "b": -1.0}]
    expected = []
    for strengths in wanted:
        loras.set(strengths)
        expected.append(model(x))
    right, errors, wrong = [0], [0], [0]

    def try_once(index: int) -> None:
        try:
            loras.set(wanted[index])
            found = model(x)
        except LoRAError:
            errors[0] += 1
        else:
            (right if torch.equal(found, expected[index]) else wrong)[0] += 1

    def work(index: int) -> None:
        for _ in range(60):
            try_once(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong[0] == 0
    assert right[0] > 0


def test_a_copy_of_an_attached_model_takes_no_turns() -> None:
    model, loras, x = make()
    loras.set({"a": 0.7})
    expected, twin = model(x), copy.deepcopy(model)
    with loras.using({"b": 1.0}):
        assert torch.equal(elsewhere(lambda: twin(x)), expected)
