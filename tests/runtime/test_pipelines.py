"""Whole pipelines: combined ones with two loops, two transformers, components that come later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, WanTransformer3DModel
from diffusers.hooks import apply_group_offloading
from torch import Tensor, nn

import lorica
from bank_memory import has_bank
from lorica.adapters import Adapter, AdapterLayer
from lorica.errors import ModelError
from sample_layers import make_lora, relative_error
from schedule_probe import PLACE, acting_strengths
from tiny_models import sd15
from tiny_pipelines import sd_pipeline

FP32_NOISE = 2e-6  # relative; worst measured 5e-7


class Stage(DiffusionPipeline):
    """A pipeline of one denoiser, named as the test needs it."""

    def __init__(self, prior: nn.Module | None = None, unet: nn.Module | None = None, scheduler: Any = None) -> None:
        super().__init__()
        given = {"prior": prior} if unet is None else {"unet": unet}
        self.register_modules(scheduler=scheduler, **given)

    @property
    def components(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("prior", "unet", "scheduler") if name in vars(self)}

    @torch.no_grad()
    def __call__(self, steps: int) -> Tensor:
        denoiser = self.components.get("prior") or self.components["unet"]
        self.scheduler.set_timesteps(steps)
        sample = torch.ones(1, 4, 8, 8)
        for t in self.progress_bar(self.scheduler.timesteps):
            sample = self.scheduler.step(denoiser(sample, t, torch.ones(1, 7, 24)).sample, t, sample).prev_sample
        return sample


class Combined(DiffusionPipeline):
    """Two stages behind one call, their parts registered as Kandinsky's and Wuerstchen's combined pipelines do."""

    def __init__(self, unet: nn.Module, scheduler: Any, prior_prior: nn.Module, prior_scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, prior_prior=prior_prior, prior_scheduler=prior_scheduler)
        self.prior_pipe = Stage(prior=prior_prior, scheduler=prior_scheduler)
        self.decoder_pipe = Stage(unet=unet, scheduler=scheduler)
        for pipe in (self.prior_pipe, self.decoder_pipe):
            pipe.set_progress_bar_config(disable=True)

    def __call__(self, prior_steps: int, steps: int, between: Callable[[], Any] = lambda: None) -> Tensor:
        self.prior_pipe(prior_steps)
        between()
        return self.decoder_pipe(steps)


def combined() -> Any:
    schedulers = [DDIMScheduler(clip_sample=False) for _ in range(2)]
    return Combined(sd15()[0], schedulers[0], sd15()[0], schedulers[1])


class Seen(dict[str, list[float]]):
    """The strength of the first of some changes at each forward, by the part that ran."""

    def __init__(self, pipe: Any, *changes: AdapterLayer) -> None:
        super().__init__({"unet": [], "prior_prior": []})
        self._pipe, self._changes = pipe, changes
        for name in self:
            getattr(pipe, name).register_forward_pre_hook(lambda *_, name=name: self[name].append(self.now(name)))

    def now(self, name: str) -> float:
        return acting_strengths(getattr(self._pipe, name).get_submodule(PLACE), self._changes)[0]


def test_each_loop_of_a_combined_pipeline_follows_its_own_steps() -> None:
    pipe = combined()
    loras = lorica.attach(pipe)
    assert list(loras.components) == ["unet", "prior_prior"]
    layer = make_lora(pipe.unet.get_submodule(PLACE))
    loras.load(Adapter({"unet": {PLACE: layer}, "prior": {PLACE: layer}}), name="a")
    seen = Seen(pipe, layer)
    loras.schedule({"a": lorica.Shape("linear", 1.0, 0.0)})
    pipe(3, 5)
    assert seen == {"prior_prior": [1.0, 0.5, 0.0], "unet": [1.0, 0.75, 0.5, 0.25, 0.0]}
    seen["unet"].clear()
    loras.schedule({"a": {"unet": [0.2, 0.4], "prior_prior": 0.9}})
    pipe(1, 2)
    assert seen["unet"] == [0.2, 0.4]
    assert seen.now("unet") == 1.0
    loras.schedule({"a": {"unet": [0.2, 0.4]}})
    pipe.decoder_pipe(2)  # one of its stages alone
    assert seen["unet"][2:] == [0.2, 0.4]
    loras.detach()
    assert [type(one) for one in (pipe, pipe.prior_pipe, pipe.decoder_pipe)] == [Combined, Stage, Stage]


def test_an_adapter_removed_between_two_loops_is_not_planned_for_in_the_second() -> None:
    pipe = combined()
    loras = lorica.attach(pipe)
    first, second = (make_lora(pipe.unet.get_submodule(PLACE), rank=rank) for rank in (2, 3))
    loras.load(Adapter({"unet": {PLACE: first}, "prior": {PLACE: first}}), name="a")
    loras.load(Adapter({"unet": {PLACE: second}, "prior": {PLACE: second}}), name="b")
    seen, gone = Seen(pipe, first, second), Seen(pipe, second, first)
    loras.schedule({"a": lorica.Shape("linear", 1.0, 0.5), "b": lorica.Shape("linear", 0.5, 1.0)})
    pipe(2, 3, between=lambda: loras.remove("b"))
    assert seen == {"prior_prior": [1.0, 0.5], "unet": [1.0, 0.75, 0.5]}
    assert gone == {"prior_prior": [0.5, 1.0], "unet": [0.0, 0.0, 0.0]}
    assert (loras.names, loras.strengths) == (["a"], {"a": 1.0})


def wan() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=10,
        freq_dim=8, ffn_dim=20, num_layers=2, rope_max_seq_len=32,
    ).eval()  # fmt: skip


class TwoTransformers(DiffusionPipeline):
    """A pipeline with two transformers, as Wan 2.2: one for much noise, one for little."""

    def __init__(self, transformer: nn.Module, transformer_2: nn.Module, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, transformer_2=transformer_2, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, steps: int) -> Tensor:
        self.scheduler.set_timesteps(steps)
        sample = torch.ones(1, 4, 1, 4, 4)
        with self.progress_bar(total=steps):
            for i, t in enumerate(self.scheduler.timesteps):
                model = self.transformer if i < steps // 2 else self.transformer_2
                out = model(sample, t[None], torch.ones(1, 3, 10), return_dict=False)[0]
                sample = self.scheduler.step(out, t, sample).prev_sample
        return sample


def test_both_transformers_of_a_pipeline_have_adapters_and_follow_the_same_steps() -> None:
    torch.manual_seed(0)
    pipe = TwoTransformers(wan(), wan(), DDIMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    path = "blocks.1.attn1.to_q"
    parts = {
        name: {path: make_lora(getattr(pipe, name).get_submodule(path))} for name in ("transformer", "transformer_2")
    }
    loras = lorica.attach(pipe)
    loras.load(Adapter(parts), name="a")
    seen: list[tuple[str, Any]] = []
    for name in parts:
        part = getattr(pipe, name)
        part.register_forward_pre_hook(lambda *_, name=name: seen.append((name, loras.strengths["a"][name])))
    loras.schedule({"a": [1.0, 0.5, 0.25, 0.0]})
    pipe(4)
    assert seen == [("transformer", 1.0), ("transformer", 0.5), ("transformer_2", 0.25), ("transformer_2", 0.0)]


def test_a_component_that_was_added_later_is_picked_up() -> None:
    pipe = sd_pipeline()
    encoder, pipe.text_encoder = pipe.text_encoder, None
    loras = lorica.attach(pipe)
    path = next(path for path, _ in encoder.named_modules() if path.endswith("layers.0.self_attn.q_proj"))
    adapter = Adapter({"text_encoder": {path: make_lora(encoder.get_submodule(path))}})
    with pytest.raises(ModelError, match="'text_encoder', but the model only has unet"):
        loras.load(adapter, name="a")
    pipe.text_encoder = encoder
    loras.load(adapter, name="a")
    assert has_bank(encoder.get_submodule(path))
    loras.detach()
    assert not has_bank(encoder.get_submodule(path))


def test_a_component_that_was_replaced_before_anything_was_loaded_is_picked_up() -> None:
    pipe = sd_pipeline()
    loras, old = lorica.attach(pipe), pipe.unet
    pipe.unet = sd15()[0]
    loras.load(Adapter({"unet": {PLACE: make_lora(pipe.unet.get_submodule(PLACE))}}), name="a")
    assert has_bank(pipe.unet.get_submodule(PLACE))
    assert not has_bank(old.get_submodule(PLACE))


def test_memory_format_and_precision_changes_keep_adapters_effective() -> None:
    unet, inputs = sd15()
    loras = lorica.attach(unet)
    change = make_lora(unet.get_submodule(PLACE))
    loras.load(Adapter({"unet": {PLACE: change}}), name="a", strength=2.0)
    expected = unet(**inputs).sample
    unet.to(memory_format=torch.channels_last)
    assert relative_error(unet(**inputs).sample, expected) < FP32_NOISE
    unet.to(torch.float64).to(torch.float32)
    assert relative_error(unet(**inputs).sample, expected) < FP32_NOISE


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
@pytest.mark.parametrize("first", ["offload", "adapter"])
def test_group_offload_before_or_after_keeps_adapters_effective_live_and_fused(kind: str, first: str) -> None:
    unet, inputs = sd15()
    change = make_lora(unet.get_submodule(PLACE))
    base = unet(**inputs).sample
    loras = lorica.attach(unet)
    loras.load(Adapter({"unet": {PLACE: change}}), name="a", strength=2.0)
    expected = unet(**inputs).sample
    loras.fuse({"a": 2.0})
    fused = unet(**inputs).sample
    loras.detach()
    steps = [
        lambda: apply_group_offloading(
            unet, torch.device("cpu"), offload_type=kind, num_blocks_per_group=1 if kind == "block_level" else None
        ),
        lambda: loras.load(Adapter({"unet": {PLACE: change}}), name="a", strength=2.0),
    ]
    for step in steps if first == "offload" else reversed(steps):
        step()
    for _ in range(2):
        assert torch.equal(unet(**inputs).sample, expected)
    loras.fuse({"a": 2.0})
    assert torch.equal(unet(**inputs).sample, fused)
    loras.detach()
    assert torch.equal(unet(**inputs).sample, base)


@pytest.mark.parametrize("first", ["casting", "adapter"])
def test_layerwise_casting_before_or_after_keeps_adapters_effective(first: str) -> None:
    unet, inputs = sd15()
    change = make_lora(unet.get_submodule(PLACE))

    def cast() -> None:
        unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)

    reference, _ = sd15()
    reference.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    base = reference(**inputs).sample
    layer = reference.get_submodule(PLACE)
    layer.register_forward_hook(lambda layer, args, out: out + 2.0 * args[0] @ change.delta(layer.weight.float()).T)
    expected = reference(**inputs).sample
    loras = lorica.attach(unet)
    steps = [cast, lambda: loras.load(Adapter({"unet": {PLACE: change}}), name="a", strength=2.0)]
    for step in steps if first == "casting" else reversed(steps):
        step()
    assert relative_error(unet(**inputs).sample, expected) < FP32_NOISE
    assert relative_error(expected, base) > 100 * FP32_NOISE
    with pytest.raises(ModelError, match=r"quantised .*Keep the adapter live"):
        loras.fuse({"a": 1.0})
    loras.detach()
    assert torch.equal(unet(**inputs).sample, base)
