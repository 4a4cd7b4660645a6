"""Schedules: the strength that each denoising step really runs at, on pipelines of the real classes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from torch import nn

import lorica
from lorica.adapters import Adapter
from lorica.errors import ConfigError, StateError, UnknownNameError
from lorica.runtime.pipeline.schedule import Shape, course_of
from sample_layers import make_lora, one
from schedule_probe import PLACE, Probe
from tiny_pipelines import sd_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers' schedulers


def test_a_list_gives_one_strength_a_step_and_ends_with_the_call() -> None:
    probe = Probe()
    probe.loras.schedule({"a": [1.5, 1.25, 0.5, -0.25]})
    probe.call()
    assert probe.seen == [1.5, 1.25, 0.5, -0.25]
    assert (probe.loras.strengths, probe.now()) == ({"a": 0.5}, 0.5)
    probe.call()
    assert probe.seen == [0.5] * 4


def test_a_scheduled_picture_is_that_of_setting_the_strength_by_hand_at_each_step() -> None:
    probe = Probe()
    values = [1.5, 0.25, -1.0]

    def next_strength(pipe: Any, step: int, time: Any, given: Any) -> Any:
        probe.loras.set({"a": values[min(step + 1, 2)]})
        return given

    probe.loras.set({"a": values[0]})
    by_hand = probe.call(3, callback_on_step_end=next_strength)
    probe.loras.set({"a": 0.5})
    fixed = probe.call(3)
    probe.loras.schedule({"a": values})
    scheduled = probe.call(3)
    assert torch.equal(scheduled, by_hand)
    assert not torch.equal(scheduled, fixed)


def test_guidance_with_a_doubled_batch_and_several_images_a_prompt_runs_one_strength_a_step() -> None:
    probe = Probe()
    probe.loras.schedule({"a": [1.0, 0.5, 0.0]})
    assert len(probe.call(3, guidance_scale=7.0, num_images_per_prompt=2)) == 2
    assert probe.seen == [1.0, 0.5, 0.0]


class TwoCallGuidance(StableDiffusionPipeline):
    """A pipeline whose guidance runs the denoiser twice a step, as Wan's and CogVideoX's siblings do."""

    @torch.no_grad()
    def __call__(self, words: torch.Tensor, steps: int) -> torch.Tensor:
        self.scheduler.set_timesteps(steps)
        sample = torch.ones(1, 4, 8, 8)
        for t in self.progress_bar(self.scheduler.timesteps):
            with_text = self.unet(sample, t, words).sample
            without = self.unet(sample, t, -words).sample
            sample = self.scheduler.step(without + 2 * (with_text - without), t, sample).prev_sample
        return sample


def test_guidance_as_two_calls_runs_both_at_the_strength_of_the_step() -> None:
    plain = sd_pipeline()
    probe = Probe(TwoCallGuidance(**plain.components, requires_safety_checker=False))
    probe.loras.schedule({"a": [1.0, 0.5, 0.25]})
    probe.pipe(torch.ones(1, 7, 24), 3)
    assert probe.seen == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (DDIMScheduler, [1.0, 0.5, 0.25]),
        (EulerDiscreteScheduler, [1.0, 0.5, 0.25]),
        (DPMSolverMultistepScheduler, [1.0, 0.5, 0.25]),
        (HeunDiscreteScheduler, [1.0, 1.0, 0.5, 0.5, 0.25]),
        (KDPM2DiscreteScheduler, [1.0, 1.0, 0.5, 0.5, 0.25]),
        (PNDMScheduler, [1.0, 1.0, 0.5, 0.25]),
    ],
)
def test_a_scheduler_of_higher_order_evaluates_each_step_at_its_strength(scheduler: Any, expected: list[float]) -> None:
    probe = Probe()
    more = {"skip_prk_steps": True} if scheduler is PNDMScheduler else {}
    probe.pipe.scheduler = scheduler.from_config(probe.pipe.scheduler.config, **more)
    probe.loras.schedule({"a": [1.0, 0.5, 0.25]})
    probe.call(3)
    assert probe.seen == expected


@pytest.mark.parametrize("scheduler", [DDIMScheduler, HeunDiscreteScheduler])
def test_picture_to_picture_counts_the_steps_that_run(scheduler: Any) -> None:
    plain = sd_pipeline()
    probe = Probe(StableDiffusionImg2ImgPipeline(**plain.components, requires_safety_checker=False))
    probe.pipe.scheduler = scheduler.from_config(probe.pipe.scheduler.config)
    probe.loras.schedule({"a": lambda progress: 1.0 - progress})
    probe.call(6, image=torch.zeros(1, 3, 16, 16), strength=0.5)
    assert probe.seen == ([1.0, 0.5, 0.0] if scheduler is DDIMScheduler else [1.0, 1.0, 0.5, 0.5, 0.0])


def test_an_error_in_the_call_ends_the_schedule_too() -> None:
    probe = Probe()

    def fail(*_: Any) -> Any:
        raise MemoryError

    probe.loras.schedule({"a": [1.0, 0.25, 0.75]})
    with pytest.raises(MemoryError):
        probe.call(3, callback_on_step_end=fail)
    assert (probe.loras.strengths, probe.now()) == ({"a": 0.5}, 0.5)
    probe.call(2)
    assert probe.seen == [0.5, 0.5]


def test_a_list_of_another_length_is_refused_and_nothing_stays() -> None:
    probe = Probe()
    probe.loras.schedule({"a": [1.0, 0.25, 0.75]})
    with pytest.raises(ConfigError, match="lists 3 strengths, but the pipeline runs 4 denoising steps"):
        probe.call(4)
    assert (probe.loras.strengths, probe.now()) == ({"a": 0.5}, 0.5)


def test_in_a_with_statement_a_schedule_holds_for_every_call_within() -> None:
    probe = Probe()
    with probe.loras.schedule({"a": [1.0, 0.25]}):
        for _ in range(2):
            probe.call(2)
            assert probe.seen == [1.0, 0.25]
    probe.call(2)
    assert probe.seen == [0.5, 0.5]


def test_set_within_a_call_ends_the_schedule_and_stays() -> None:
    probe = Probe()

    def interfere(pipe: Any, step: int, time: Any, given: Any) -> Any:
        if step == 1:
            probe.loras.set({"a": -1.0})
        return given

    probe.loras.schedule({"a": [1.0, 0.25, 0.75, 0.0]})
    probe.call(4, callback_on_step_end=interfere)
    assert probe.seen == [1.0, 0.25, -1.0, -1.0]
    assert probe.loras.strengths == {"a": -1.0}


def test_an_adapter_that_was_off_is_live_during_the_call_and_others_keep_their_strength() -> None:
    probe = Probe()
    probe.loras.load(one_on_unet(probe.pipe.unet), name="b")
    probe.loras.set({"a": 0.5})
    during: list[Any] = []
    probe.pipe.unet.register_forward_pre_hook(lambda *_: during.append(dict(probe.loras.strengths)))
    probe.loras.schedule({"b": [1.0, 0.0]})
    probe.call(2)
    assert during == [{"a": 0.5, "b": {"unet": 1.0}}, {"a": 0.5, "b": {"unet": 0.0}}]
    assert probe.loras.strengths == {"a": 0.5}


def one_on_unet(unet: nn.Module) -> Adapter:
    return Adapter({"unet": {PLACE: make_lora(unet.get_submodule(PLACE), rank=2)}})


def test_components_have_schedules_of_their_own_and_text_encoders_take_the_first_value() -> None:
    probe = Probe(text=True)
    with probe.loras.schedule({"a": {"unet": [1.0, 0.25], "text_encoder": 0.75}}):
        probe.call(2)
    assert probe.seen == [1.0, 0.25]
    during: list[Any] = []
    probe.pipe.unet.register_forward_pre_hook(lambda *_: during.append(dict(probe.loras.strengths["a"])))
    probe.loras.schedule({"a": Shape("constant", 0.8, start=0.5)})
    probe.call(2)
    assert during == [{"unet": 0.0, "text_encoder": 0.8}, {"unet": 0.8, "text_encoder": 0.8}]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Shape("linear", 1.0, 0.2), [1.0, 0.8, 0.6, 0.4, 0.2]),
        (Shape("cosine", 1.0, 0.0), [1.0, 0.85355, 0.5, 0.14645, 0.0]),
        (Shape("constant", 0.7, start=0.4, end=0.8), [0.0, 0.0, 0.7, 0.7, 0.0]),
        (Shape("linear", -1.0, 1.0, start=0.2, end=0.8), [0.0, -1.0, 0.0, 1.0, 0.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25, 0.0]),
        ({"shape": "constant", "first": 2.0, "end": 0.5}, [2.0, 2.0, 2.0, 0.0, 0.0]),
        (lambda progress: progress**2, [0.0, 0.0625, 0.25, 0.5625, 1.0]),
        (0.3, [0.3] * 5),
    ],
)
def test_shapes_entry_by_entry(schedule: Any, expected: list[float]) -> None:
    values = course_of(schedule, ["unet"]).steps(["unet"], 5)["unet"]
    assert values == pytest.approx(expected, abs=1e-5)


def test_windows_that_meet_share_no_step_and_leave_none_out() -> None:
    for total in range(1, 9):
        early = Shape("constant", 1.0, end=0.5).steps(total)
        late = Shape("constant", 1.0, start=0.5).steps(total)
        assert [a + b for a, b in zip(early, late, strict=True)] == [1.0] * total


def test_what_is_no_schedule_is_refused_before_anything_waits() -> None:
    probe = Probe()
    for bad, error, message in [
        ({"b": [1.0]}, UnknownNameError, "unknown adapter 'b'"),
        ({"a": {"text_encoder": [1.0]}}, UnknownNameError, "component 'text_encoder'"),
        ({"a": "sawtooth"}, UnknownNameError, "shape 'sawtooth'"),
        ({"a": {"shape": "linear", "finish": 1}}, UnknownNameError, "setting of a shape 'finish'"),
        ({"a": {"shape": "linear", "start": 0.6, "end": 0.5}}, ConfigError, r"got 0\.6 to 0\.5"),
        ({"a": {"shape": "linear", "first": float("nan")}}, ConfigError, "finite"),
        ({"a": []}, ConfigError, "empty list"),
    ]:
        with pytest.raises(error, match=message):
            probe.loras.schedule(bad)
    probe.call(2)
    assert probe.seen == [0.5, 0.5]


def test_a_fused_adapter_has_no_schedule_and_a_module_has_no_steps() -> None:
    probe = Probe()
    probe.loras.fuse({"a": 1.0})
    with pytest.raises(StateError, match="'a' is fused"):
        probe.loras.schedule({"a": [1.0]})
    layer = nn.Linear(5, 7)
    loras = lorica.attach(nn.Sequential(layer))
    loras.load(one(make_lora(layer)), name="a")
    with pytest.raises(StateError, match="attached to a module"):
        loras.schedule({"a": [1.0]})


def test_a_compiled_unet_follows_a_schedule_without_recompiling() -> None:
    probe = Probe()
    plain = probe.pipe.unet
    torch._dynamo.reset()
    probe.look_away()
    probe.loras.schedule({"a": [1.0, 0.5, 0.25, 0.0]})
    expected = probe.call(4)
    probe.pipe.unet = torch.compile(plain, backend="eager", fullgraph=True)
    probe.call(1)
    with torch._dynamo.config.patch(error_on_recompile=True):
        probe.loras.schedule({"a": [1.0, 0.5, 0.25, 0.0]})
        assert torch.allclose(probe.call(4), expected, atol=1e-5)
    torch._dynamo.reset()


def test_pipelines_and_schedulers_have_their_own_classes_again() -> None:
    probe = Probe()
    pipe = probe.pipe
    assert isinstance(pipe, StableDiffusionPipeline)
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    twin = copy.deepcopy(pipe.scheduler)
    probe.loras.schedule({"a": [1.0, 0.5]})
    probe.call(2)
    assert type(pipe.scheduler) is DDIMScheduler
    assert type(twin) is DDIMScheduler
    probe.loras.detach()
    assert type(pipe) is StableDiffusionPipeline
    assert not [name for name in vars(pipe) if "lorica" in name]


@pytest.mark.parametrize("road", ["copy", "pickle"])
def test_a_copy_of_a_pipeline_gives_the_same_picture_and_hears_nothing(road: str) -> None:
    probe = Probe()
    probe.look_away()
    expected = probe.call(2)
    twin = copy.deepcopy(probe.pipe) if road == "copy" else pickle.loads(pickle.dumps(probe.pipe))  # noqa: S301
    assert type(twin) is StableDiffusionPipeline
    assert not [name for name in vars(twin) if "lorica" in name]
    assert type(probe.pipe) is not StableDiffusionPipeline
    probe.loras.set({"a": -1.0})
    changed = probe.call(2)
    probe.pipe = twin
    assert torch.equal(probe.call(2), expected)
    assert not torch.equal(changed, expected)


def test_a_pipeline_that_shares_the_components_follows_schedules_once_attached() -> None:
    probe = Probe()
    other = StableDiffusionPipeline(**probe.pipe.components, requires_safety_checker=False)
    assert lorica.attach(other) is probe.loras
    probe.pipe = other
    probe.pipe.set_progress_bar_config(disable=True)
    probe.loras.schedule({"a": [1.0, 0.25]})
    probe.call(2)
    assert probe.seen == [1.0, 0.25]
