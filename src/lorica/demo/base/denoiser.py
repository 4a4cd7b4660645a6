"""Training of the small UNet together with its text encoder, on latents computed once."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lorica.atomic import atomic_write
from lorica.data.images import to_tensor
from lorica.demo.base.autoencoder import encode
from lorica.demo.base.tokenizer import LENGTH
from lorica.demo.captions import loose_caption, random_scene
from lorica.demo.drawing import Scene, draw

CHANNELS = (48, 80, 96)
WIDTH = 128  # of the text encoder
EMPTY_CAPTIONS = 0.1  # share, for classifier-free guidance
EMA_DECAY = 0.999
LEAST_SHARE = 0.2  # of the density of noise levels, at both ends


@dataclass(frozen=True, slots=True)
class Pictures:
    """Training data of the denoiser: scenes and their pictures' latents, ``(n, 4, 16, 16)`` in half precision."""

    scenes: list[Scene]
    latents: Tensor


class Denoiser(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            block_out_channels=CHANNELS,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=16,
        )
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=4 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=LENGTH,
                bos_token_id=cast("int", tokenizer.bos_token_id),
                eos_token_id=cast("int", tokenizer.eos_token_id),
                pad_token_id=cast("int", tokenizer.pad_token_id),
            )
        )

    def forward(self, noisy: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
        """Predict the velocity, shaped like ``noisy`` ``(b, 4, 16, 16)``; ``tokens`` is ``(b, length)``."""
        states = self.text_encoder(tokens).last_hidden_state
        return self.unet(noisy, time, states).sample


def make_schedule() -> DDPMScheduler:
    """Noise schedule: cosine, predicting the velocity, which keeps flat colours right at high noise."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )


@torch.no_grad()
def make_pictures(autoencoder: AutoencoderKL, count: int, seed: int) -> Pictures:
    """Draw ``count`` scenes that hold no unseen pair and encode them."""
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    scale = float(autoencoder.config["scaling_factor"])
    latents: list[Tensor] = []
    for start in range(0, count, 64):
        batch = torch.stack([to_tensor(draw(scene)) for scene in scenes[start : start + 64]])
        with torch.autocast("cpu", torch.bfloat16):
            latents.append((encode(autoencoder, batch).mean.float() * scale).half())
    return Pictures(scenes, torch.cat(latents))


def train_denoiser(
    pictures: Pictures,
    tokenizer: CLIPTokenizer,
    steps: int,
    *,
    state: Path,
    batch: int = 32,
    learning_rate: float = 1e-3,
) -> Denoiser:
    """Moving average of the trained networks; every 250 steps all is saved to ``state``, to resume from."""
    torch.manual_seed(0)
    live, average, start = Denoiser(tokenizer), Denoiser(tokenizer), 0
    average.load_state_dict(live.state_dict())
    optimizer = torch.optim.AdamW(live.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    if state.exists():
        saved = torch.load(state, weights_only=True)
        live.load_state_dict(saved["live"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    schedule, losses = make_schedule(), 0.0
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _warm_then_fall(step, steps)
        loss = _loss(live, schedule, pictures, tokenizer, batch, step)
        loss.backward()
        nn.utils.clip_grad_norm_(live.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        _follow(average, live, min(EMA_DECAY, (step + 1) / (step + 10)))
        losses += loss.item()
        if (step + 1) % 250 == 0 or step + 1 == steps:
            print(f"denoiser step {step + 1}/{steps}  loss {losses / 250:.4f}", flush=True)
            losses = 0.0
            _keep(state, live, average, optimizer, step + 1)
    return average.eval()


def _loss(
    model: Denoiser, schedule: DDPMScheduler, pictures: Pictures, tokenizer: CLIPTokenizer, batch: int, step: int
) -> Tensor:
    rng = random.Random(step)
    noise_source = torch.Generator().manual_seed(step)
    chosen = rng.sample(range(len(pictures.scenes)), batch)
    texts = ["" if rng.random() < EMPTY_CAPTIONS else loose_caption(pictures.scenes[i], rng) for i in chosen]
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    latents = pictures.latents[chosen].float()
    noise = torch.randn(latents.shape, generator=noise_source)
    time = _choose_times(schedule, batch, noise_source)
    times = cast("Any", time)  # diffusers asks for an IntTensor, which a tensor of integers is not to a type checker
    noisy, target = schedule.add_noise(latents, noise, times), schedule.get_velocity(latents, noise, times)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = model(noisy, time, tokens)
    return F.mse_loss(predicted.float(), target)


def _choose_times(schedule: DDPMScheduler, count: int, generator: torch.Generator) -> Tensor:
    """Draw noise levels, mostly those at which shapes are decided, ``(count,)``.

    The density is the min-SNR weight ``min(snr, 5) / (snr + 1)`` (Hang et al. 2023, arXiv:2303.09556) with a floor:
    levels are drawn by weight, not weighted, so that no step is spent on those that count little. Stratified, for
    less variance.
    """
    kept = schedule.alphas_cumprod.double()
    snr = kept / (1 - kept)
    share = (snr.clamp(max=5) / (snr + 1)).clamp(min=LEAST_SHARE).cumsum(0)
    places = (torch.arange(count) + torch.rand((), generator=generator)) / count
    return torch.searchsorted(share / share[-1], places.double()).clamp(max=len(share) - 1)


def _warm_then_fall(step: int, steps: int) -> float:
    """Factor of the learning rate: up in 200 steps, constant until 60 %, then linearly down to 2 %."""
    rise, fall = min(1.0, (step + 1) / 200), max(0.0, (step / steps - 0.6) / 0.4)
    return rise * (1 - 0.98 * fall)


@torch.no_grad()
def _follow(average: nn.Module, live: nn.Module, decay: float) -> None:
    for kept, new in zip(average.parameters(), live.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def _keep(path: Path, live: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    saved = {
        "live": live.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
    }
    with atomic_write(path) as waiting:
        torch.save(saved, waiting)
