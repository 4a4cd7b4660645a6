"""Stable Diffusion: the formulas against diffusers' scheduler, the encoders against the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from lorica.errors import ModelError
from lorica.training.recipes import StableDiffusion, load_recipe
from lorica.training.recipes.recipe import RecipeSettings, Sampling, Weighting

CPU = torch.device("cpu")
SETTINGS = RecipeSettings(device=CPU, dtype=torch.float32)
FP32_NOISE = 1e-6  # absolute, on numbers of size 1; worst measured 2.4e-7 over all 1,000 timesteps
Make = Callable[[str], Any]


@pytest.mark.parametrize("predicted", ["epsilon", "v_prediction"])
def test_noise_and_target_are_those_of_the_scheduler(pipeline_with: Make, predicted: str) -> None:
    pipeline = pipeline_with(predicted)
    recipe = StableDiffusion(pipeline, SETTINGS)
    scheduler: Any = DDPMScheduler.from_config(pipeline.scheduler.config)
    time = torch.arange(1000)
    latents, noise = torch.randn(2, 1000, 1, 3, 2)
    noisy, target = recipe.corrupt(latents, noise, time)
    assert (noisy - scheduler.add_noise(latents, noise, time)).abs().max() < FP32_NOISE
    expected = noise if predicted == "epsilon" else scheduler.get_velocity(latents, noise, time)
    assert (target - expected).abs().max() < FP32_NOISE


def test_the_prediction_can_be_overruled_and_must_be_known(pipeline_with: Make) -> None:
    pipeline = pipeline_with("v_prediction")
    settings = RecipeSettings(device=CPU, dtype=torch.float32, prediction_type="epsilon")
    assert StableDiffusion(pipeline, settings).describe()["modelspec.prediction_type"] == "epsilon"
    with pytest.raises(ModelError, match="predicts 'sample'; this recipe knows epsilon and v_prediction"):
        StableDiffusion(pipeline_with("sample"), SETTINGS)


def test_every_timestep_is_drawn_and_none_beyond(pipeline_with: Make) -> None:
    recipe = StableDiffusion(pipeline_with("epsilon"), SETTINGS)
    time = recipe.sample_time(20_000, torch.Generator().manual_seed(0))
    assert sorted(time.unique().tolist()) == list(range(1000))


def test_text_states_are_those_of_the_pipeline(pipeline_with: Make) -> None:
    pipeline = pipeline_with("epsilon")
    recipe = StableDiffusion(pipeline, SETTINGS)
    expected, _ = pipeline.encode_prompt("a red circle", CPU, 1, do_classifier_free_guidance=False)
    states = recipe.encode_text("a red circle")["states"]
    assert states.shape == (17, 24)
    assert torch.equal(states, expected[0])


def test_latents_are_those_of_the_autoencoder(pipeline_with: Make) -> None:
    pipeline = pipeline_with("epsilon")
    recipe = StableDiffusion(pipeline, SETTINGS)
    pixels = torch.rand(3, 32, 32) * 2 - 1
    with torch.no_grad():
        posterior = pipeline.vae.encode(pixels[None]).latent_dist
    mean, std = recipe.encode_picture(pixels)
    assert torch.equal(mean, posterior.mean[0] * 0.18215)
    assert torch.equal(std, posterior.std[0] * 0.18215)


def test_tokens_are_counted_with_the_marks(pipeline_with: Make) -> None:
    recipe = StableDiffusion(pipeline_with("epsilon"), SETTINGS)
    assert recipe.count_tokens("a red circle") == (5, 17)
    assert recipe.count_tokens("red " * 40)[0] == 42


def test_min_snr_weights_follow_the_schedule(pipeline_with: Make) -> None:
    pipeline = pipeline_with("v_prediction")
    recipe = StableDiffusion(
        pipeline, RecipeSettings(device=CPU, dtype=torch.float32, weighting=Weighting("min_snr", 5.0))
    )
    time = torch.tensor([0, 300, 999])
    kept = pipeline.scheduler.alphas_cumprod[time]
    snr = kept / (1 - kept)
    weights = recipe.weigh(time)
    assert weights is not None
    assert weights == pytest.approx(snr.clamp(max=5) / (snr + 1), rel=1e-4)
    assert StableDiffusion(pipeline, SETTINGS).weigh(time) is None


def test_pictures_depend_on_the_seed_and_leave_the_model_as_it_was(pipeline_with: Make) -> None:
    pipeline = pipeline_with("v_prediction")
    recipe = StableDiffusion(pipeline, SETTINGS)
    before = pipeline.scheduler
    sampling = Sampling(prompts=("a red circle", "a blue star"), seeds=(3, 4), steps=2, guidance=2.0, side=32)
    first, second = recipe.draw(sampling), recipe.draw(sampling)
    assert [picture.size for picture in first] == [(32, 32), (32, 32)]
    assert [picture.tobytes() for picture in first] == [picture.tobytes() for picture in second]
    assert first[0].tobytes() != first[1].tobytes()
    assert pipeline.scheduler is before


def test_a_pipeline_without_a_recipe_is_refused_by_name(pipeline_with: Make) -> None:
    pipeline = pipeline_with("epsilon")
    pipeline.register_modules(text_encoder=None)
    with pytest.raises(ModelError, match=r"this version trains Stable .* The base model is a StableDiffusionPipeline "):
        load_recipe(pipeline, SETTINGS)
