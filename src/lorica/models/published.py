"""The configurations from which the tables are made: what the published models' own ``config.json`` files say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Published:
    """One family as its authors published it."""

    title: str
    base_models: tuple[str, ...]
    configs: Mapping[str, Config]


_CLIP_L: Config = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
_OPENCLIP_H: Config = {
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
}
_OPENCLIP_BIGG: Config = {
    "vocab_size": 49408,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
_SD1_UNET: Config = {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768}
_SD2_UNET: Config = {
    **_SD1_UNET,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
_SDXL_UNET: Config = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_BUNDLED_UNET: Config = {
    "sample_size": 16,
    "block_out_channels": (48, 80, 96),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 128,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
_BUNDLED_TEXT: Config = {
    "vocab_size": 696,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 48,
    "bos_token_id": 694,
    "eos_token_id": 695,
}

PUBLISHED: dict[str, Published] = {
    "sd1": Published(
        "Stable Diffusion 1.x",
        ("stable-diffusion-v1", "stable-diffusion-v1-4", "stable-diffusion-v1-5", "sd_v1", "sd_1.5", "sd1"),
        {"unet": _SD1_UNET, "text_encoder": _CLIP_L},
    ),
    "sd2": Published(
        "Stable Diffusion 2.x",
        ("stable-diffusion-2", "stable-diffusion-2-1", "stable-diffusion-v2-512", "stable-diffusion-v2-768-v", "sd_v2"),
        {"unet": _SD2_UNET, "text_encoder": _OPENCLIP_H},
    ),
    "sdxl": Published(
        "Stable Diffusion XL",
        ("stable-diffusion-xl-v1-base", "stable-diffusion-xl-base-1.0", "sdxl_base_v1-0", "sdxl"),
        {"unet": _SDXL_UNET, "text_encoder": _CLIP_L, "text_encoder_2": _OPENCLIP_BIGG},
    ),
    "bundled": Published(
        "the bundled model",
        ("bundled",),
        {"unet": _BUNDLED_UNET, "text_encoder": _BUNDLED_TEXT},
    ),
}
