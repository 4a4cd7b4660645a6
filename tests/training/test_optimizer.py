"""The learning rate is a function of the step, clipping clips, and Adam's memory comes back."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import nn

from lorica.training.config.config import RunConfig
from lorica.training.optimizer import Optimizer, schedule


def make(**changes: object) -> tuple[Optimizer, dict[str, nn.Parameter]]:
    torch.manual_seed(1)
    parameters = {"unet": nn.Parameter(torch.randn(13)), "text_encoder": nn.Parameter(torch.randn(7))}
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter) * 40
    return Optimizer(parameters, {"unet": 1e-2, "text_encoder": 1e-3}, RunConfig.from_values(changes), 10), parameters


def length(parameters: dict[str, nn.Parameter]) -> float:
    return torch.cat([cast("torch.Tensor", parameter.grad) for parameter in parameters.values()]).norm().item()


def test_clipping_clips_all_components_as_one_vector() -> None:
    optimizer, parameters = make()
    before = length(parameters)
    direction = cast("torch.Tensor", parameters["unet"].grad).clone()
    assert optimizer.clip(0.7).item() == pytest.approx(before)
    assert before > 100
    assert length(parameters) == pytest.approx(0.7, rel=1e-5)
    clipped = cast("torch.Tensor", parameters["unet"].grad)
    assert torch.allclose(clipped / clipped.norm(), direction / direction.norm())


def test_a_short_gradient_is_left_alone() -> None:
    optimizer, parameters = make()
    before = cast("torch.Tensor", parameters["unet"].grad).clone()
    optimizer.clip(1e6)
    assert torch.equal(cast("torch.Tensor", parameters["unet"].grad), before)


def test_each_component_has_its_rate() -> None:
    optimizer, _ = make(lr_scheduler="linear", lr_warmup_steps=4)
    rates: list[float] = []
    for step in (0, 2, 4, 7, 10):
        optimizer.set_rates(step)
        rates.append(optimizer.rate())
    assert rates == pytest.approx([0, 5e-3, 1e-2, 5e-3, 0])
    optimizer.set_rates(2)
    assert [group["lr"] for group in optimizer.inner.param_groups] == pytest.approx([5e-3, 5e-4])


def test_one_step_is_adam_written_out() -> None:
    optimizer, parameters = make(adam_weight_decay=0.1)
    before = parameters["unet"].detach().clone()
    gradient = cast("torch.Tensor", parameters["unet"].grad).clone()
    optimizer.set_rates(0)
    optimizer.inner.step()
    expected = before * (1 - 1e-2 * 0.1) - 1e-2 * gradient / (gradient.abs() + 1e-8)
    assert torch.allclose(parameters["unet"], expected, atol=1e-6)


def test_memory_comes_back_bit_for_bit() -> None:
    one, here = make()
    other, there = make()
    for step in range(3):
        one.set_rates(step)
        one.inner.step()
    other.load(one.state())
    with torch.no_grad():
        for name, parameter in here.items():
            there[name].copy_(parameter)
    for optimizer in (one, other):
        optimizer.set_rates(3)
        optimizer.inner.step()
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert one.state().keys() == {f"{name}/{moment}" for name in here for moment in ("step", "exp_avg", "exp_avg_sq")}


def test_gradients_are_cleared_in_place() -> None:
    optimizer, parameters = make()
    gradient = parameters["unet"].grad
    optimizer.clear()
    assert parameters["unet"].grad is gradient
    assert not cast("torch.Tensor", gradient).any()


def test_schedules_are_those_of_diffusers() -> None:
    cosine = schedule(RunConfig(lr_scheduler="cosine", lr_warmup_steps=2), 12)
    assert [cosine(step) for step in (0, 1, 2, 7, 12)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    constant = schedule(RunConfig(), 12)
    assert [constant(step) for step in (0, 11)] == [1, 1]
