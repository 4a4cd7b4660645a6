"""Train the decoder alone some more: latents stay as they are, so the denoiser that knows them need not learn anew."""

from __future__ import annotations

import random
from typing import Any, cast

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from lorica.demo.base.autoencoder import to_tensor
from lorica.demo.base.denoiser import Pictures
from lorica.demo.drawing import draw

LEARNING_RATE = 1e-3
LATENT_NOISE = 0.04  # what the denoiser leaves is not quite what the encoder makes


def sharpen_decoder(
    autoencoder: AutoencoderKL, pictures: Pictures, steps: int, *, batch: int = 12, seed: int = 0
) -> None:
    """Train the decoder on latents that are known, with a rate that rises and falls once."""
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
