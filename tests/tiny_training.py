"""Tiny pipelines of the real classes with random weights, and pictures to train them on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image, ImageDraw
from transformers import CLIPTextConfig, CLIPTextModel

from lorica.demo.base.tokenizer import make_tokenizer
from lorica.training.config.config import RunConfig
from lorica.training.output.checkpoint import list_checkpoints, read_checkpoint
from lorica.training.output.metrics import METRICS
from lorica.training.run import TrainResult, train

SIDE = 32
COLORS = ("red", "green", "blue", "orange", "purple")


def stable_diffusion(prediction_type: str = "v_prediction") -> Any:
    """Return the pipeline: 32 pixels, 8 x 8 latents, two levels, 17 tokens."""
    torch.manual_seed(3)
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 17
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 8, 12),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=SIDE,
        mid_block_add_attention=False,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=3,
            max_position_embeddings=17,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(prediction_type=prediction_type, clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )


def write_pictures(folder: Path, count: int = len(COLORS)) -> Path:
    """Write five pictures, each with its caption beside it; the last two are not square."""
    folder.mkdir()
    for number, color in enumerate(COLORS[:count]):
        width = SIDE if number < 3 else SIDE + 9 * number
        picture = Image.new("RGB", (width, SIDE), "white")
        ImageDraw.Draw(picture).ellipse((5, 6, 7 + 4 * number, 20), fill=color)
        picture.save(folder / f"{color}.png")
        (folder / f"{color}.txt").write_text(f"a large {color} circle\n", encoding="utf-8")
    return folder


def assert_resumes(settings: Callable[..., RunConfig], folder: Path, *, stop: int = 1, **options: Any) -> TrainResult:
    """Assert that a run that stops after ``stop`` of its steps (3) and goes on is one without a stop, bit for bit.

    Compared are the adapter file, everything in the last checkpoint, and every line of ``metrics.jsonl``.
    """
    options = {"max_train_steps": 3, **options}
    whole = train(settings(**options), quiet=True)
    parted = folder / "parted" / whole.output_dir.name  # the name is the file's title
    train(settings(**{**options, "max_train_steps": stop}, output_dir=parted), quiet=True)
    torch.manual_seed(991)
    last = train(settings(**options, output_dir=parted, resume_from_checkpoint="latest"), quiet=True)
    assert last.adapter_path.read_bytes() == whole.adapter_path.read_bytes()
    one, two = (read_checkpoint(list_checkpoints(result.output_dir)[-1]).tensors for result in (whole, last))
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert (last.output_dir / METRICS).read_text() == (whole.output_dir / METRICS).read_text()
    return whole
