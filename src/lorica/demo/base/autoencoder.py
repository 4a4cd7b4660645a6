"""Training of the small autoencoder: 64 x 64 pictures to 16 x 16 x 4 latents and back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, cast

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from torch.nn import functional as F

from lorica.data.images import to_tensor
from lorica.demo.captions import random_scene
from lorica.demo.drawing import SIDE, draw

CHANNELS = (32, 48, 64)
KL_WEIGHT = 1e-5
LEARNING_RATE = 2e-3


def make_autoencoder() -> AutoencoderKL:
    """Autoencoder with random weights (0.8 M parameters)."""
    settings: dict[str, Any] = {
        "block_out_channels": CHANNELS,
        "down_block_types": ("DownEncoderBlock2D",) * len(CHANNELS),
        "up_block_types": ("UpDecoderBlock2D",) * len(CHANNELS),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": SIDE,
        "mid_block_add_attention": False,
    }
    return AutoencoderKL(**settings)


def train_autoencoder(cycles: int, steps: int, *, batch: int = 12, seed: int = 0) -> AutoencoderKL:
    """Autoencoder trained on fresh pictures, in cycles of ``steps`` whose learning rate rises and falls.

    Its ``scaling_factor`` is set so that latents have unit variance.
    """
    torch.manual_seed(seed)
    autoencoder = make_autoencoder()
    for cycle in range(cycles):
        _train_cycle(autoencoder, steps, LEARNING_RATE / (cycle + 1), picture_batches(batch, seed + cycle))
    _set_scaling(autoencoder.eval(), next(picture_batches(256, seed + cycles)))
    return autoencoder


def _train_cycle(autoencoder: AutoencoderKL, steps: int, learning_rate: float, batches: Iterator[Tensor]) -> None:
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps + 1, pct_start=0.08)
    for step, pictures in zip(range(1, steps + 1), batches, strict=False):
        with torch.autocast("cpu", torch.bfloat16):
            loss, error = _loss(autoencoder, pictures)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0 or step == steps:
            print(f"autoencoder step {step}/{steps}  mean absolute error {error:.4f}", flush=True)


def picture_batches(batch: int, seed: int) -> Iterator[Tensor]:
    """Endless batches of fresh pictures, ``(b, 3, 64, 64)`` in -1 to 1."""
    rng = random.Random(seed)
    while True:
        yield torch.stack([to_tensor(draw(random_scene(rng))) for _ in range(batch)])


def encode(autoencoder: AutoencoderKL, pictures: Tensor) -> DiagonalGaussianDistribution:
    """Distribution of the latents of pictures ``(b, 3, h, w)``."""
    return cast("Any", autoencoder).encode(pictures).latent_dist


def _loss(autoencoder: AutoencoderKL, pictures: Tensor) -> tuple[Tensor, float]:
    posterior = encode(autoencoder, pictures)
    restored = cast("Any", autoencoder).decode(posterior.sample()).sample.float()
    error = F.l1_loss(restored, pictures)
    return error + F.mse_loss(restored, pictures) + KL_WEIGHT * posterior.kl().mean() / 16, error.item()


@torch.no_grad()
def _set_scaling(autoencoder: AutoencoderKL, pictures: Tensor) -> None:
    spread = encode(autoencoder, pictures).mean.std().item()
    autoencoder.register_to_config(scaling_factor=round(1 / spread, 5))
