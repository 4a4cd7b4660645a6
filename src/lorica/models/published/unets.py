"""Models with a UNet: Stable Diffusion 1, 2 and XL, Kandinsky 2.2, and the bundled one.

The numbers are those of the ``config.json`` files that the authors published. Kandinsky's UNet is also written out in
diffusers' ``scripts/convert_kandinsky_to_diffusers.py`` (2.1; 2.2 is conditioned on the picture's embedding alone).
"""

from __future__ import annotations

from lorica.models.published.network import Config, Network, Published
from lorica.models.published.text_encoders import (
    CLIP_L,
    OPENCLIP_BIGG_PROJECTED,
    OPENCLIP_H,
)

_SD1: Config = {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768}
_SD2: Config = {
    **_SD1,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
_SDXL: Config = {
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
_SDXL_REFINER: Config = {
    **_SDXL,
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4,
    "attention_head_dim": (6, 12, 24, 24),
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}
_KANDINSKY22: Config = {
    "sample_size": 64,
    "out_channels": 8,
    "block_out_channels": (384, 768, 1152, 1536),
    "layers_per_block": 3,
    "down_block_types": ("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": (*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
    "attention_head_dim": 64,
    "cross_attention_dim": 768,
    "encoder_hid_dim": 1280,
    "encoder_hid_dim_type": "image_proj",
    "addition_embed_type": "image",
    "resnet_time_scale_shift": "scale_shift",
}
_BUNDLED: Config = {
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


def _unet(config: Config) -> Network:
    return Network("UNet2DConditionModel", config)


SD1 = Published(
    "Stable Diffusion 1.x",
    ("stable-diffusion-v1", "stable-diffusion-v1-4", "stable-diffusion-v1-5", "sd_v1", "sd_1.5", "sd1"),
    {"unet": _unet(_SD1), "text_encoder": CLIP_L},
)
SD2 = Published(
    "Stable Diffusion 2.x",
    ("stable-diffusion-2", "stable-diffusion-2-1", "stable-diffusion-v2-512", "stable-diffusion-v2-768-v", "sd_v2"),
    {"unet": _unet(_SD2), "text_encoder": OPENCLIP_H},
)
SDXL = Published(
    "Stable Diffusion XL",
    ("stable-diffusion-xl-v1-base", "stable-diffusion-xl-base-1.0", "sdxl_base_v1-0", "sdxl"),
    {"unet": _unet(_SDXL), "text_encoder": CLIP_L, "text_encoder_2": OPENCLIP_BIGG_PROJECTED},
)
SDXL_REFINER = Published(
    "Stable Diffusion XL Refiner",
    ("stable-diffusion-xl-refiner-1.0", "stable-diffusion-xl-v1-refiner"),
    {"unet": _unet(_SDXL_REFINER), "text_encoder_2": OPENCLIP_BIGG_PROJECTED},
)
KANDINSKY22 = Published(
    "Kandinsky 2.2",
    ("kandinsky-2-2-decoder", "kandinsky-2-2-prior"),
    {
        "unet": _unet(_KANDINSKY22),
        "prior": Network("PriorTransformer", {"embedding_dim": 1280}),
        "text_encoder": OPENCLIP_BIGG_PROJECTED,
    },
)
BUNDLED = Published(
    "the bundled model",
    ("bundled",),
    {"unet": _unet(_BUNDLED), "text_encoder": Network("CLIPTextModel", _BUNDLED_TEXT)},
)
