"""Pipelines of the real classes with several denoisers: adapters on every part, and schedules by each one's loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import lorica
from lorica.adapters import Adapter
from lorica.errors import StateError
from sample_layers import make_lora, relative_error
from schedule_probe import acting_strengths
from tiny_whole_pipelines import make

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # Wuerstchen's and Stable Cascade's, of themselves

SAME = 1e-4  # relative, after all steps, in which random models amplify a rounding; worst measured 3e-5
STEPS = {
    "kandinsky": {"prior_prior": 3, "unet": 4},
    "wuerstchen": {"prior_prior": 3, "decoder": 4},
    "stable cascade": {"prior_prior": 3, "decoder": 4},
    "wan": {"transformer": 5, "transformer_2": 5},
    "ltx": {"transformer": 4},
}
TEXTS = {
    "kandinsky": ["prior_text_encoder"],
    "wuerstchen": ["text_encoder", "prior_text_encoder"],
    "stable cascade": ["text_encoder", "prior_text_encoder"],
    "wan": [],
    "ltx": [],
}
UNUSED = {"stable cascade": {"text_encoder"}}  # the prior hands its texts on


def adapter_of(loras: Any, names: list[str]) -> Adapter:
    """Return an adapter for every matrix of these components."""
    parts = {}
    for name in names:
        modules = loras.components[name].named_modules()
        parts[name] = {p: make_lora(m) for p, m in modules if type(m) in (nn.Linear, nn.Conv2d, nn.Conv3d)}
    return Adapter(parts)


@pytest.mark.parametrize("name", STEPS)
def test_every_part_of_a_pipeline_carries_adapters_and_is_again_what_it_was(name: str) -> None:
    pipe, call = make(name)
    base = call()
    loras = lorica.attach(pipe)
    parts = [*STEPS[name], *TEXTS[name]]
    assert sorted(loras.components) == sorted(parts)
    loras.load(adapter_of(loras, parts), name="a", strength=0.5)
    everything = call()
    for part in set(parts) - UNUSED.get(name, set()):
        loras.set({"a": {part: 0.5, **dict.fromkeys(set(parts) - {part}, 0.0)}})
        assert relative_error(call(), base) > 1e-4, part
    loras.set({"a": 0.5})
    assert torch.equal(call(), everything)
    loras.set({})
    assert torch.equal(call(), base)
    loras.fuse({"a": 0.5})
    assert relative_error(call(), everything) < SAME
    loras.detach()
    assert torch.equal(call(), base)


@pytest.mark.parametrize("name", STEPS)
def test_each_denoiser_follows_its_own_loop(name: str) -> None:
    pipe, call = make(name)
    loras = lorica.attach(pipe)
    loras.load(adapter_of(loras, [*STEPS[name], *TEXTS[name]]), name="a", strength=0.25)
    seen: dict[str, list[float]] = {part: [] for part in STEPS[name]}
    for part, values in seen.items():
        component = loras.components[part]
        path = next(path for path, layer in component.named_modules() if type(layer) is nn.Linear)
        layer, change = component.get_submodule(path), loras["a"].components[part][path]
        component.register_forward_pre_hook(
            lambda *_, layer=layer, change=change, values=values: values.extend(acting_strengths(layer, [change]))
        )
    loras.schedule({"a": lorica.Shape("linear", 1.0, 0.0)})
    call()
    for part, total in STEPS[name].items():
        steps = [round(1 - step / (total - 1), 4) for step in range(total)]
        assert sorted(set(seen[part]), reverse=True) == [step for step in steps if step in seen[part]], part
        if name != "wan":
            assert list(dict.fromkeys(seen[part])) == steps, part
    if name == "wan":
        both = [*dict.fromkeys(seen["transformer"]), *dict.fromkeys(seen["transformer_2"])]
        assert both == [1.0, 0.75, 0.5, 0.25, 0.0]
        assert seen["transformer"]
        assert seen["transformer_2"]
    assert loras.strengths == {"a": 0.25}


@pytest.mark.parametrize("name", STEPS)
def test_regions_hold_in_every_denoiser(name: str) -> None:
    pipe, call = make(name)
    base = call()
    loras = lorica.attach(pipe)
    loras.load(adapter_of(loras, list(STEPS[name])), name="a", strength=0.5)
    everything = call()
    with loras.regions({"a": torch.ones(4, 4)}):
        assert relative_error(call(), everything) < SAME
    with loras.regions({"a": torch.zeros(4, 4)}, elsewhere=0.0):
        assert torch.equal(call(), base)
    with loras.regions({"a": torch.eye(4)}):
        assert relative_error(call(), everything) > 1e-2


def test_a_stage_whose_part_was_replaced_is_refused() -> None:
    pipe, call = make("kandinsky")
    other, _ = make("kandinsky")
    loras = lorica.attach(pipe)
    loras.load(adapter_of(loras, ["prior_prior"]), name="a")
    pipe.prior_pipe.prior = other.prior_prior
    with pytest.raises(StateError, match="the component 'prior' of this KandinskyV22PriorPipeline was replaced"):
        call()
    pipe.prior_pipe.prior = pipe.prior_prior
    call()


def test_a_text_encoder_that_two_stages_share_is_one_component() -> None:
    pipe, call = make("stable cascade")
    pipe.register_modules(prior_text_encoder=pipe.text_encoder)
    pipe.prior_pipe.register_modules(text_encoder=pipe.text_encoder)
    base = call()
    loras = lorica.attach(pipe)
    assert list(loras.components) == ["text_encoder", "decoder", "prior_prior"]
    loras.load(adapter_of(loras, ["text_encoder"]), name="a")
    assert relative_error(call(), base) > 1e-4
    loras.detach()
    assert torch.equal(call(), base)
