"""Any sequence of operations leaves the model as a fresh one with the same set, and detach leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor, nn

import lorica
from broken_off import ERRORS, Broken
from lorica.adapters import Adapter, AdapterLayer, Full, LoCon, LoRA, Norm
from lorica.errors import LoRAError
from sample_layers import relative_error

FP32_NOISE = 2e-5  # relative to the output; worst measured 2e-6 over 600 sequences
NAMES = ("a", "b", "c", "d")
strengths = st.sampled_from([-1.5, 0.0, 0.3, 1.0, 2.0])
chosen = st.dictionaries(st.sampled_from(NAMES), strengths)


def base() -> nn.Sequential:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 5, (3, 2), padding=1), nn.GroupNorm(5, 5)
    return nn.Sequential(conv, norm, nn.Flatten(), nn.Linear(120, 7), nn.Linear(7, 4, bias=False))


def adapters() -> dict[str, Adapter]:
    """Four adapters of several kinds, whose layers overlap in part."""
    torch.manual_seed(1)

    def lora(out: int, width: int, rank: int, **more: Any) -> AdapterLayer:
        return LoRA(torch.randn(rank, width) / width, torch.randn(out, rank), 2.0, **more)

    core = LoCon(torch.randn(2, 3, 1, 1) / 4, torch.randn(2, 2, 3, 2) / 4, torch.randn(5, 2, 1, 1), 1.0)
    parts: dict[str, dict[str, AdapterLayer]] = {
        "a": {"3": lora(7, 120, 2, bias=torch.randn(7)), "4": lora(4, 7, 3)},
        "b": {"0": core, "1": Norm(torch.randn(5), torch.randn(5))},
        "c": {"0": Full(torch.randn(5, 3, 3, 2) / 9), "3": lora(7, 120, 4)},
        "d": {"4": lora(4, 7, 1)},
    }
    return {name: Adapter({"model": layers}) for name, layers in parts.items()}


class Sequences(RuleBasedStateMachine):
    """The operations on one model, beside a plain record of what they should come to."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters, self.model = adapters(), base()
        self.before = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(2))
        self.loras = lorica.attach(self.model)
        self.loaded: list[str] = []
        self.live: dict[str, float] = {}
        self.samples: list[dict[str, float]] | None = None
        self.fused: dict[str, float] = {}
        self.enabled = True

    @rule(name=st.sampled_from(NAMES), strength=strengths)
    def load(self, name: str, strength: float) -> None:
        allowed = name not in self.loaded and self.samples is None
        self.tried(lambda: self.loras.load(self.adapters[name], name=name, strength=strength), allowed)
        if allowed:
            self.loaded.append(name)
            self.live[name] = strength

    @rule(name=st.sampled_from(NAMES), source=st.sampled_from(NAMES), strength=strengths)
    def replace(self, name: str, source: str, strength: float) -> None:
        allowed = name not in self.fused and self.samples is None
        adapter = adapters()[source].map(lambda tensor: tensor * 0.5)
        self.tried(lambda: self.loras.load(adapter, name=name, strength=strength, replace=True), allowed)
        if allowed:
            self.adapters[name] = adapter
            self.loaded += [name] if name not in self.loaded else []
            self.live[name] = strength

    @rule(wanted=st.lists(chosen, min_size=2, max_size=2))
    def per_sample(self, wanted: list[dict[str, float]]) -> None:
        allowed = all(name in self.loaded and name not in self.fused for one in wanted for name in one)
        self.tried(lambda: self.loras.per_sample(wanted), allowed)
        if allowed:
            self.live, self.samples = {}, [dict(one) for one in wanted]

    @rule(size=st.sampled_from([None, 0, 600, 10**6]))
    def limit(self, size: int | None) -> None:
        self.loras.limit_memory(size)

    def left_out(self, names: Any) -> None:
        """Record that these adapters are live no more, for all samples or for any."""
        self.live = {name: value for name, value in self.live.items() if name not in names}
        self.samples = self.samples and [{n: v for n, v in one.items() if n not in names} for one in self.samples]

    @rule(wanted=chosen)
    def set_strengths(self, wanted: dict[str, float]) -> None:
        allowed = all(name in self.loaded and name not in self.fused for name in wanted)
        self.tried(lambda: self.loras.set(wanted), allowed)
        if allowed:
            self.live, self.samples = dict(wanted), None

    @rule(wanted=chosen, error=st.booleans())
    def use(self, wanted: dict[str, float], error: bool) -> None:
        def within() -> None:
            with self.loras.using(wanted):
                if error:
                    raise LoRAError

        allowed = all(name in self.loaded and name not in self.fused for name in wanted)
        self.tried(within, allowed and not error)

    @rule(wanted=chosen)
    def fuse(self, wanted: dict[str, float]) -> None:
        allowed = all(name in self.loaded for name in wanted)
        self.tried(lambda: self.loras.fuse(wanted), allowed)
        if allowed:
            self.fused.update(wanted)
            self.left_out(wanted)

    @rule(names=st.lists(st.sampled_from(NAMES), unique=True))
    def unfuse(self, names: list[str]) -> None:
        allowed = all(name in self.fused for name in names)
        self.tried(lambda: self.loras.unfuse(*names), allowed)
        if allowed:
            self.fused = {name: value for name, value in self.fused.items() if names and name not in names}

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        self.tried(lambda: self.loras.remove(name), name in self.loaded)
        if name in self.loaded:
            self.loaded.remove(name)
            self.left_out([name])
            self.fused.pop(name, None)

    @rule(on=st.booleans())
    def switch(self, on: bool) -> None:
        (self.loras.enable if on else self.loras.disable)()
        self.enabled = on

    @precondition(lambda self: self.loaded)
    @rule(line=st.integers(0, 900), error=st.sampled_from(ERRORS), data=st.data())
    def break_off(self, line: int, error: type[BaseException], data: Any) -> None:
        """Let an operation break off somewhere within: all of it has happened, or nothing."""
        name = data.draw(st.sampled_from(self.loaded))
        free = [other for other in NAMES if other not in self.loaded]
        actions: list[Callable[[], Any]] = [lambda: self.loras.fuse({name: 0.7})]
        if free and self.samples is None:
            actions.append(lambda: self.loras.load(self.adapters[free[0]], name=free[0]))
        if name in self.fused:
            actions += [lambda: self.loras.unfuse(name), lambda: self.loras.remove(name)]
        action = data.draw(st.sampled_from(actions))
        with Broken(line, error):
            action()
        if self.loras.fused.get(name) != self.fused.get(name) or name not in self.loras.names:
            self.left_out([name])
        self.loaded, self.live = self.loras.names, {n: float(s) for n, s in self.loras.strengths.items()}  # type: ignore[arg-type]
        self.fused = {n: float(s) for n, s in self.loras.fused.items()}  # type: ignore[arg-type]

    def tried(self, action: Callable[[], Any], allowed: bool) -> None:
        if allowed:
            action()
            return
        with pytest.raises(LoRAError):
            action()

    @invariant()
    def it_is_a_fresh_model_with_the_same_set(self) -> None:
        assert (self.loras.names, self.loras.strengths, self.loras.fused) == (self.loaded, self.live, self.fused)
        with torch.no_grad():
            assert relative_error(self.model(self.x), self.fresh()) < FP32_NOISE
        if not self.fused:
            assert all(torch.equal(self.model.state_dict()[name], tensor) for name, tensor in self.before.items())
        assert list(self.model.state_dict()) == list(self.before)

    def fresh(self) -> Tensor:
        """Return the output of the formula, for each sample that of its own set."""
        if self.samples is None:
            return self.alone(self.live)
        rows = [self.alone(one)[index] for index, one in enumerate(self.samples)]
        return torch.stack(rows)

    def alone(self, live: dict[str, float]) -> Tensor:
        """Return the output with every change written into the weights of a new model."""
        model = base()
        acting = {**self.fused, **(live if self.enabled else {})}
        for name, strength in acting.items():
            for path, layer in self.adapters[name].components["model"].items():
                target, original = model[int(path)], base()[int(path)]
                target.weight += strength * layer.delta(original.weight)
                bias = layer.bias_delta(original.bias)
                if bias is not None:
                    target.bias += strength * bias
        return model(self.x)

    def teardown(self) -> None:
        self.loras.enable()
        self.loras.detach()
        after = self.model.state_dict()
        assert list(after) == list(self.before)
        assert all(torch.equal(after[name], tensor) for name, tensor in self.before.items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())
        assert not any("lorica" in name for module in self.model.modules() for name in vars(module))


def check(examples: int) -> None:
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    profile = settings(max_examples=examples, stateful_step_count=14, deadline=None, suppress_health_check=quiet)
    run_state_machine_as_test(Sequences, settings=profile)


def test_sequences_of_operations() -> None:
    check(15)


@pytest.mark.slow
def test_many_sequences_of_operations() -> None:
    check(200)
