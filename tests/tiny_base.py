"""A tiny Stable Diffusion pipeline on disk: the real classes, random weights, the tokenizer of the bundled base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lorica.demo.base.tokenizer import LENGTH, make_tokenizer

SIDE = 32  # pixels: 16 x 16 latents, factor 2


def save_tiny_base(folder: Path) -> Path:
    """Save the pipeline in diffusers' format and return the folder."""
    torch.manual_seed(5)
    tokenizer = make_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 12),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=SIDE,
        mid_block_add_attention=False,
    )
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    parts: dict[str, Any] = {"safety_checker": None, "feature_extractor": None}
    schedule = DDPMScheduler(
        prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing", steps_offset=1
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=schedule,
        requires_safety_checker=False,
        **parts,
    ).save_pretrained(folder)
    return folder
