"""Stable Diffusion 1.x and 2.x, text to image: noise or velocity prediction, as the model's scheduler says."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from PIL import Image
from torch import Tensor, nn

from lorica.data.cache import digest_of_tensors, key_of
from lorica.errors import ModelError
from lorica.training.objective.noise import check_predicted, draw_timesteps, to_zero_terminal_snr
from lorica.training.objective.weights import loss_weights
from lorica.training.recipes.recipe import Conditioning, Identities, Latents, RecipeSettings, Sampling

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
WIDTH_OF_V2 = 1024
HEAD = 4096  # bytes of each tensor of the UNet that are digested
TARGETS = ("epsilon", "v_prediction")


class StableDiffusion:
    """``x_t = sqrt(a_t) x + sqrt(1 - a_t) noise``; the UNet predicts the noise, or the velocity.

    The velocity is ``sqrt(a_t) noise - sqrt(1 - a_t) x``.
    (Ho et al. 2020, arXiv:2006.11239, eq. 4; Salimans and Ho 2022, arXiv:2202.00512, section 2.4.)
    """

    name: ClassVar[str] = "sd"
    title: ClassVar[str] = "Stable Diffusion 1.x and 2.x"

    def __init__(self, pipeline: Any, settings: RecipeSettings) -> None:
        self._pipeline, self._settings = pipeline, settings
        self._tokenizer = pipeline.tokenizer
        self._keeps_text, self._keeps_pictures = settings.train_text_encoder, False
        self._vae: Any = _place(pipeline.vae, settings.device, torch.float32)  # encodes once: precision costs nothing
        self._text_encoder: Any = _place(pipeline.text_encoder, settings.device, settings.dtype)
        self._unet: Any = _place(pipeline.unet, settings.device, settings.dtype)
        schedule: Any = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.prediction_type = _prediction_type(settings.prediction_type or str(schedule.config["prediction_type"]))
        kept: Tensor = schedule.alphas_cumprod.double()  # the share of the picture that is left, (t,)
        if settings.zero_terminal_snr:
            check_predicted(self.prediction_type)
            kept = to_zero_terminal_snr(kept)
        self._signal = kept.sqrt().float().to(settings.device)
        self._noise = (1 - kept).sqrt().float().to(settings.device)

    @staticmethod
    def fits(pipeline: Any) -> bool:
        """Whether this is a text-to-image pipeline with one CLIP text encoder and a UNet on latents."""
        parts = getattr(pipeline, "components", {})
        return (
            all(parts.get(name) is not None for name in PARTS)
            and parts.get("text_encoder_2") is None
            and getattr(parts["unet"], "config", {}).get("in_channels") == parts["vae"].config["latent_channels"]
        )

    @property
    def components(self) -> Mapping[str, nn.Module]:
        """The UNet, and the text encoder if it is trained too."""
        parts: dict[str, nn.Module] = {"unet": self._unet}
        return {**parts, "text_encoder": self._text_encoder} if self._settings.train_text_encoder else parts

    @property
    def side(self) -> int:
        """The UNet's sample size in pixels."""
        return int(self._unet.config["sample_size"]) * int(self._pipeline.vae_scale_factor)

    @property
    def multiple(self) -> int:
        """Factor by which the autoencoder and the levels of the UNet shrink a picture."""
        levels = len(self._unet.config["block_out_channels"]) - 1
        return int(self._pipeline.vae_scale_factor) * 2**levels

    def with_networks(self, change: Callable[[nn.Module], nn.Module]) -> StableDiffusion:
        """Copy with every network replaced; the pipeline, which draws previews, stays as it is."""
        other = copy.copy(self)
        other._unet, other._vae, other._text_encoder = map(change, (self._unet, self._vae, self._text_encoder))
        return other

    def describe(self) -> Mapping[str, str]:
        """Version, known by the width of the text states, and prediction."""
        version = "v2" if self._unet.config["cross_attention_dim"] == WIDTH_OF_V2 else "v1"
        predicted = "epsilon" if self.prediction_type == "epsilon" else "v"
        return {
            "modelspec.architecture": f"stable-diffusion-{version}/lora",
            "modelspec.prediction_type": predicted,
        }

    def count_tokens(self, caption: str) -> tuple[int, int]:
        """Number of tokens with the two marks, and the length that the tokenizer cuts to."""
        ids = self._tokenizer(caption, truncation=False, verbose=False).input_ids
        return len(ids), int(self._tokenizer.model_max_length)

    def identify(self) -> Identities:
        """Digests of the autoencoder, the text encoder with its tokenizer, and the head of each tensor of the UNet."""
        vocabulary = json.dumps(self._tokenizer.get_vocab(), sort_keys=True)
        vae, text = digest_of_tensors(self._vae.state_dict()), digest_of_tensors(self._text_encoder.state_dict())
        return Identities(
            pictures=key_of(self.name, vae, float(self._vae.config["scaling_factor"])),
            text=key_of(self.name, text, vocabulary, self._settings.train_text_encoder),
            model=digest_of_tensors(self._unet.state_dict(), head=HEAD),
        )

    @torch.no_grad()
    def encode_text(self, caption: str) -> Conditioning:
        """States of the text encoder, ``(t, d)``, or tokens ``(t,)`` if it is trained."""
        ids: Tensor = self._tokenizer(caption, padding="max_length", truncation=True, return_tensors="pt").input_ids
        if self._settings.train_text_encoder:
            return {"tokens": ids[0]}
        return {"states": self._states(ids.to(self._settings.device))[0]}

    @torch.no_grad()
    def encode_picture(self, pixels: Tensor) -> Latents:
        """The autoencoder's distribution, scaled to unit variance."""
        posterior = self._vae.encode(pixels[None].to(self._settings.device)).latent_dist
        scale = float(self._vae.config["scaling_factor"])
        return Latents((posterior.mean[0] * scale).cpu(), (posterior.std[0] * scale).cpu())

    def release_encoders(self, *, keep_text: bool = False, keep_pictures: bool = False) -> None:
        """Move the autoencoder and the text encoder to main memory, unless they are kept or trained."""
        self._keeps_text = keep_text or self._settings.train_text_encoder
        self._keeps_pictures = keep_pictures
        self._move_encoders(torch.device("cpu"))

    def sample_time(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw timesteps, each within the limits equally likely."""
        least, most = self._settings.least_time, self._settings.most_time
        return draw_timesteps(count, generator, steps=len(self._signal), least=least, most=most)

    def spread_time(self, count: int) -> Tensor:
        """The middle timestep of each of ``count`` equal parts of the schedule."""
        return (torch.arange(count) * 2 + 1) * len(self._signal) // (2 * count)

    def signal_to_noise(self, time: Tensor) -> Tensor:
        """``a_t / (1 - a_t)``."""
        return (self._signal[time] / self._noise[time]).square()

    def corrupt(self, latents: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy latents, and the noise or the velocity."""
        signal, spread = self._signal[time].view(-1, 1, 1, 1), self._noise[time].view(-1, 1, 1, 1)
        noisy = signal * latents + spread * noise
        return noisy, noise if self.prediction_type == "epsilon" else signal * noise - spread * latents

    def predict(self, noisy: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        """Run the UNet, and the text encoder first if it is trained."""
        states = conditioning["states"] if "states" in conditioning else self._states(conditioning["tokens"])
        dtype = self._settings.dtype
        return self._unet(noisy.to(dtype), time, states.to(dtype), return_dict=False)[0].float()

    def weigh(self, time: Tensor) -> Tensor | None:
        """The weights if any were asked for."""
        weighting = self._settings.weighting
        if weighting is None:
            return None
        return loss_weights(self.signal_to_noise(time), weighting.rule, self.prediction_type, weighting.gamma)

    @torch.no_grad()
    def draw(self, sampling: Sampling) -> list[Image.Image]:
        """Sample latents in the training precision and decode them in float32."""
        self._move_encoders(self._settings.device)
        own = self._pipeline.scheduler
        self._pipeline.scheduler = self._sampler()
        self._pipeline.set_progress_bar_config(disable=True)
        try:
            return [self._draw_one(sampling, number, prompt) for number, prompt in enumerate(sampling.prompts)]
        finally:
            self._pipeline.scheduler = own
            self._move_encoders(torch.device("cpu"))

    def _sampler(self) -> Any:
        """The pipeline's own scheduler, or one that fits the prediction and schedule that are trained."""
        own = self._pipeline.scheduler
        changes: dict[str, Any] = {}
        if self.prediction_type != own.config["prediction_type"]:
            changes["prediction_type"] = self.prediction_type
        if self._settings.zero_terminal_snr:  # sampling must begin at the step that is noise alone
            changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        if not changes and not isinstance(own, DDPMScheduler):  # DDPM adds noise at every step: bad with few steps
            return own
        return DDIMScheduler.from_config(own.config, **changes)

    def _draw_one(self, sampling: Sampling, number: int, prompt: str) -> Image.Image:
        latents: Tensor = self._pipeline(
            prompt,
            negative_prompt=sampling.negative,
            height=sampling.side,
            width=sampling.side,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            generator=torch.Generator().manual_seed(sampling.seeds[number]),
            output_type="latent",
        ).images
        pixels: Tensor = self._vae.decode(latents.float() / float(self._vae.config["scaling_factor"])).sample
        return self._pipeline.image_processor.postprocess(pixels, output_type="pil")[0]

    def _states(self, tokens: Tensor) -> Tensor:
        return self._text_encoder(tokens)[0]

    def _move_encoders(self, device: torch.device) -> None:
        if not self._keeps_pictures:
            self._vae.to(device)
        if not self._keeps_text:
            self._text_encoder.to(device)


def _place(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    moved = nn.Module.to(network, device=device, dtype=dtype)  # diffusers' own warns of modules that SD lacks
    return moved.eval().requires_grad_(requires_grad=False)


def _prediction_type(name: str) -> str:
    if name not in TARGETS:
        known = " and ".join(TARGETS)
        raise ModelError(f"the scheduler says that the model predicts {name!r}; this recipe knows {known}.")
    return name
