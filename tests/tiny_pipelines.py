"""Tiny pipelines of the real classes: enough of a pipeline to load adapters into, and its two outputs."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tiny_models import sd15, sdxl

WORDS, LENGTH = 37, 7


def sd_pipeline(seed: int = 0) -> StableDiffusionPipeline:
    """Return a Stable Diffusion pipeline without a tokenizer."""
    unet, _ = sd15()
    torch.manual_seed(seed)
    encoder = CLIPTextModel(_text_config(24, 40)).eval()
    parts: dict[str, Any] = {"tokenizer": None, "safety_checker": None, "feature_extractor": None}
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=encoder,
        unet=_as_unet(unet),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        requires_safety_checker=False,
        **parts,
    )


def sdxl_pipeline(seed: int = 0) -> StableDiffusionXLPipeline:
    """Return a Stable Diffusion XL pipeline without tokenizers: its second text encoder has the other class."""
    unet, _ = sdxl()
    torch.manual_seed(seed)
    parts: dict[str, Any] = {"tokenizer": None, "tokenizer_2": None}
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(12, 20)).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(28, 44, projection_dim=20)).eval(),
        unet=_as_unet(unet),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        add_watermarker=False,
        **parts,
    )


@torch.no_grad()
def text_states(encoder: nn.Module) -> Tensor:
    """Return what a text encoder makes of a fixed text."""
    return encoder(torch.arange(2 * LENGTH).view(2, LENGTH)).last_hidden_state


def _text_config(width: int, inner: int, **more: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=WORDS, hidden_size=width, intermediate_size=inner, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=LENGTH, bos_token_id=35, eos_token_id=36, pad_token_id=36, **more,
    )  # fmt: skip


def _vae() -> AutoencoderKL:
    return AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1)


def _as_unet(unet: nn.Module) -> UNet2DConditionModel:
    assert isinstance(unet, UNet2DConditionModel)
    return unet
