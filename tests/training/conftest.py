"""A tiny pipeline of the real classes, pictures to train on, and settings that finish in a moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from lorica.training.config import RunConfig

SIDE = 32
COLORS = ("red", "green", "blue", "orange", "purple")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's cache out of the tests, and the tests out of it."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LORICA_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion pipeline with random weights, saved in diffusers' format."""
    folder = tmp_path_factory.mktemp("base")
    make_pipeline("v_prediction").save_pretrained(folder)
    return folder


def make_pipeline(prediction_type: str) -> Any:
    """Return the pipeline: 32 pixels, 8 x 8 latents, two levels, 17 tokens."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from lorica.demo.base.tokenizer import make_tokenizer

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


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five pictures, each with its caption beside it; the last two are not square."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, color in enumerate(COLORS):
        width = SIDE if number < 3 else SIDE + 9 * number
        picture = Image.new("RGB", (width, SIDE), "white")
        ImageDraw.Draw(picture).ellipse((5, 6, 7 + 4 * number, 20), fill=color)
        picture.save(folder / f"{color}.png")
        (folder / f"{color}.txt").write_text(f"a large {color} circle\n", encoding="utf-8")
    return folder


@pytest.fixture
def settings(base: Path, pictures: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """Make settings: seven steps of two, nothing drawn; anything can be overridden."""

    def make(**changes: Any) -> RunConfig:
        values: dict[str, Any] = {
            "pretrained_model_name_or_path": str(base),
            "train_data_dir": pictures,
            "output_dir": tmp_path / "out",
            "train_batch_size": 2,
            "max_train_steps": 7,
            "learning_rate": 1e-2,
            "rank": 3,
            "num_validation_images": 0,
        }
        return RunConfig(**{**values, **changes})

    return make
