"""Schedules together with everything else that holds for a while: using, other schedules, samples, other pipelines."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionImg2ImgPipeline
from torch import Tensor

import lorica
from lorica.adapters import Adapter
from lorica.errors import ConfigError, StateError, UnknownNameError
from sample_layers import make_lora, relative_error
from schedule_probe import PLACE, Probe

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers' schedulers
FP32_NOISE = 1e-5  # relative; worst measured 3e-7


def test_a_schedule_that_waits_is_there_again_after_using() -> None:
    probe = Probe()
    probe.loras.schedule({"a": [1.0, 0.25]})
    with probe.loras.using({"a": 0.75}):
        probe.call(2)
        assert probe.seen == [0.75, 0.75]
    probe.call(2)
    assert probe.seen == [1.0, 0.25]
    probe.call(2)
    assert probe.seen == [0.5, 0.5]


@pytest.mark.parametrize("error", [True, False])
def test_the_schedule_of_a_block_holds_again_after_using_in_it(error: bool) -> None:
    probe = Probe()
    with probe.loras.schedule({"a": [1.0, 0.25]}):
        with contextlib.suppress(MemoryError), probe.loras.using({"a": 0.75}):
            probe.loras.schedule({"a": [0.1, 0.2]})  # ends with the block
            if error:
                raise MemoryError
        probe.call(2)
        assert probe.seen == [1.0, 0.25]
    probe.call(2)
    assert probe.seen == [0.5, 0.5]


def test_a_block_within_a_block_gives_the_outer_schedule_back() -> None:
    probe = Probe()
    with probe.loras.schedule({"a": [1.0, 0.25]}):
        with probe.loras.schedule({"a": [0.1, 0.2]}):
            probe.call(2)
            assert probe.seen == [0.1, 0.2]
        probe.call(2)
        assert probe.seen == [1.0, 0.25]
        probe.loras.schedule({"a": [0.3, 0.4]})  # for one call
        probe.call(2)
        assert probe.seen == [0.3, 0.4]
        probe.call(2)
        assert probe.seen == [1.0, 0.25]
    probe.call(2)
    assert probe.seen == [0.5, 0.5]


def in_callback(at: int, act: Any) -> Any:
    def callback(pipe: Any, step: int, time: Any, given: Any) -> Any:
        if step == at:
            act()
        return given

    return callback


def test_using_within_a_call_lets_its_schedule_go_on() -> None:
    probe = Probe()

    def look() -> None:
        with probe.loras.using({"a": 0.75}):
            assert probe.now() == 0.75

    probe.loras.schedule({"a": [1.0, 0.25, 0.125]})
    probe.call(3, callback_on_step_end=in_callback(0, look))
    assert probe.seen == [1.0, 0.25, 0.125]
    assert probe.loras.strengths == {"a": 0.5}


def test_a_schedule_that_is_made_within_a_call_is_for_the_next() -> None:
    probe = Probe()
    probe.loras.schedule({"a": [1.0, 0.25]})
    later = in_callback(0, lambda: probe.loras.schedule({"a": [0.1, 0.2]}))
    probe.call(2, callback_on_step_end=later)
    assert (probe.seen, probe.loras.strengths) == ([1.0, 0.25], {"a": 0.5})
    probe.call(2)
    assert probe.seen == [0.1, 0.2]
    probe.call(2)
    assert probe.seen == [0.5, 0.5]


def test_a_schedule_takes_the_place_of_one_that_waits() -> None:
    probe = Probe()
    probe.loras.schedule({"a": [0.1, 0.2]})
    probe.loras.schedule({"a": [1.0, 0.25]})
    for expected in ([1.0, 0.25], [0.5, 0.5]):
        probe.call(2)
        assert probe.seen == expected


def with_second(probe: Probe) -> None:
    change = make_lora(probe.pipe.unet.get_submodule(PLACE), rank=2)
    probe.loras.load(Adapter({"unet": {PLACE: change}}), name="b")


@pytest.mark.parametrize("when", ["before", "within"])
def test_removing_a_scheduled_adapter_leaves_the_schedules_of_the_others(when: str) -> None:
    probe = Probe()
    with_second(probe)
    probe.loras.schedule({"a": [1.0, 0.25, 0.125], "b": "linear"})
    if when == "before":
        probe.loras.remove("b")
        probe.call(3)
    else:
        probe.call(3, callback_on_step_end=in_callback(0, lambda: probe.loras.remove("b")))
    assert probe.seen == [1.0, 0.25, 0.125]
    assert (probe.loras.names, probe.loras.strengths) == (["a"], {"a": 0.5})


def test_another_pipeline_with_the_same_parts_is_told_that_a_schedule_waits_for_the_attached_one() -> None:
    probe = Probe()
    other = StableDiffusionImg2ImgPipeline(**probe.pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    attached, probe.pipe = probe.pipe, other
    probe.call(4, image=torch.zeros(1, 3, 16, 16), strength=0.5)
    probe.loras.schedule({"a": [1.0, 0.25]})
    with pytest.raises(StateError, match=r"waits for a call of the StableDiffusionPipeline that was attached.*unet"):
        probe.call(4, image=torch.zeros(1, 3, 16, 16), strength=0.5)
    lorica.attach(other)
    probe.call(4, image=torch.zeros(1, 3, 16, 16), strength=0.5)
    assert probe.seen == [1.0, 0.25]
    probe.pipe = attached
    probe.call(2)
    assert probe.seen == [0.5, 0.5]


def test_pndm_with_runge_kutta_steps_makes_four_evaluations_in_each_of_the_first_three() -> None:
    probe = Probe()
    probe.pipe.scheduler = PNDMScheduler.from_config(probe.pipe.scheduler.config, skip_prk_steps=False)
    probe.loras.schedule({"a": [1.0, 0.75, 0.5, 0.25, 0.0]})
    probe.call(5)
    assert probe.seen == [1.0] * 4 + [0.75] * 4 + [0.5] * 4 + [0.25, 0.0]


def two(probe: Probe, steps: int, **given: Any) -> Tensor:
    """Call a pipeline with two prompts, from the same noise."""
    torch.manual_seed(1)
    words = torch.linspace(-1, 1, 2 * 7 * 24).view(2, 7, 24)
    noise = torch.randn(1, 4, 8, 8).repeat(2 * given.get("num_images_per_prompt", 1), 1, 1, 1)
    wanted = {"guidance_scale": 2.0, "output_type": "latent", **given}
    pipe: Any = probe.pipe
    return pipe(
        prompt_embeds=words, negative_prompt_embeds=-words, num_inference_steps=steps, latents=noise, **wanted
    ).images  # fmt: skip


def alone(probe: Probe, sets: list[dict[str, float]], schedules: list[dict[str, Any]], **given: Any) -> Tensor:
    """Return what each prompt gives where all of them have its set and its schedule."""
    images = []
    for sample, (one, schedule) in enumerate(zip(sets, schedules, strict=True)):
        probe.loras.set(one)
        probe.loras.schedule(schedule)
        images.append(two(probe, 3, **given).chunk(2)[sample])
    probe.loras.set({"a": 0.5})
    return torch.cat(images)


@pytest.mark.parametrize("images", [1, 2])
def test_samples_that_name_an_adapter_follow_its_schedule_and_the_others_do_not(images: int) -> None:
    probe = Probe()
    with_second(probe)
    sets: list[dict[str, float]] = [{"a": 0.5}, {"b": 0.75}]
    course = {"a": [2.0, 0.25, -1.0]}
    expected = alone(probe, sets, [course, {}], num_images_per_prompt=images)
    probe.loras.per_sample(sets)
    fixed = two(probe, 3, num_images_per_prompt=images)
    probe.loras.schedule(course)
    got = two(probe, 3, num_images_per_prompt=images)
    assert relative_error(got, expected) < FP32_NOISE
    assert not torch.allclose(fixed[0], expected[0], atol=1e-2)
    assert torch.equal(two(probe, 3, num_images_per_prompt=images), fixed)  # the schedule is over


def test_each_sample_has_schedules_of_its_own() -> None:
    probe = Probe()
    with_second(probe)
    sets: list[dict[str, float]] = [{"a": 0.5}, {"b": 0.75}]
    courses: list[dict[str, Any]] = [{"a": [2.0, 0.25, -1.0]}, {"b": "linear", "a": lambda progress: -progress}]
    expected = alone(probe, sets, courses)
    probe.loras.per_sample(sets)
    with probe.loras.schedule(courses):
        for _ in range(2):
            assert relative_error(two(probe, 3), expected) < FP32_NOISE
    assert probe.loras.active == ["a", "b"]


def test_schedules_that_do_not_fit_the_samples_are_refused() -> None:
    probe = Probe()
    with_second(probe)
    probe.loras.per_sample([{"a": 0.5}, {}])
    with pytest.raises(ConfigError, match=r"'b' is in the set of no sample"):
        probe.loras.schedule({"b": "linear"})
    with pytest.raises(UnknownNameError, match="'c'"):
        probe.loras.schedule({"c": "linear"})
    with pytest.raises(ConfigError, match=r"for 3 samples, but per_sample holds sets for 2"):
        probe.loras.schedule([{}, {}, {"a": "linear"}])
    with pytest.raises(UnknownNameError, match="'c'"):
        probe.loras.schedule([{}, {"c": "linear"}])
    probe.loras.set({"a": 0.5})
    with pytest.raises(ConfigError, match=r"for 1 samples, but per_sample holds sets for 0"):
        probe.loras.schedule([{"a": "linear"}])
    probe.call(2)
    assert probe.seen == [0.5, 0.5]
