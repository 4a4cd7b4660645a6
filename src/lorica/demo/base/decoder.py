"""Further training of the decoder alone: latents stay as they are, so the denoiser needs no further training."""

from __future__ import annotations

import random
from typing import Any, cast

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from lorica.data.images import to_tensor
from lorica.demo.base.denoiser import Pictures
from lorica.demo.drawing import draw

LEARNING_RATE = 1e-3
LATENT_NOISE = 0.04  # latents of the denoiser differ a little from those of the encoder


def sharpen_decoder(
    autoencoder: AutoencoderKL, pictures: Pictures, steps: int, *, batch: int = 12, seed: int = 0
) -> None:
    """Train the decoder on known latents, with a learning rate that rises and falls once."""
    parts = cast("Any", autoencoder)
    learnt = [*parts.decoder.parameters(), *parts.post_quant_conv.parameters()]
    optimizer = torch.optim.AdamW(learnt, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=0.1)
    for step in range(1, steps + 1):
        latents, wanted = _batch(pictures, batch, seed + step)
        with torch.autocast("cpu", torch.bfloat16):
            restored: Tensor = parts.decode(latents / float(parts.config["scaling_factor"])).sample
        error = F.l1_loss(restored.float(), wanted)
        (error + F.mse_loss(restored.float(), wanted)).backward()
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0 or step == steps:
            print(f"decoder step {step}/{steps}  mean absolute error {error.item():.4f}", flush=True)


def _batch(pictures: Pictures, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    chosen = random.Random(seed).sample(range(len(pictures.scenes)), batch)
    latents = pictures.latents[chosen].float()
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    wanted = torch.stack([to_tensor(draw(pictures.scenes[index])) for index in chosen])
    return latents + LATENT_NOISE * noise, wanted
