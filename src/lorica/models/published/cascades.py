"""Wuerstchen and Stable Cascade, which work in a small latent space of their own.

The numbers are those in diffusers' ``scripts/convert_wuerstchen.py`` and ``scripts/convert_stable_cascade.py``, which
made the published repositories. The prior of Stable Cascade is the large one, of 3.6 billion parameters.
"""

from __future__ import annotations

from lorica.models.published.network import Network, Published
from lorica.models.published.text_encoders import OPENCLIP_BIGG, OPENCLIP_BIGG_PROJECTED

_RESNET_AND_TIME = ("SDCascadeResBlock", "SDCascadeTimestepBlock")
_WITH_ATTENTION = (*_RESNET_AND_TIME, "SDCascadeAttnBlock")

WUERSTCHEN = Published(
    "Wuerstchen prior",
    ("wuerstchen-prior", "wuerstchen"),
    {
        "prior": Network(
            "WuerstchenPrior", {"c_in": 16, "c": 1536, "c_cond": 1280, "c_r": 64, "depth": 32, "nhead": 24}
        ),
        "text_encoder": OPENCLIP_BIGG,
    },
)
STABLE_CASCADE = Published(
    "Stable Cascade",
    ("stable-cascade", "stable-cascade-prior"),
    {
        "prior": Network(
            "StableCascadeUNet",
            {
                "in_channels": 16,
                "out_channels": 16,
                "conditioning_dim": 2048,
                "block_out_channels": (2048, 2048),
                "num_attention_heads": (32, 32),
                "down_num_layers_per_block": (8, 24),
                "up_num_layers_per_block": (24, 8),
                "down_blocks_repeat_mappers": (1, 1),
                "up_blocks_repeat_mappers": (1, 1),
                "block_types_per_layer": (_WITH_ATTENTION, _WITH_ATTENTION),
                "clip_text_in_channels": 1280,
                "clip_text_pooled_in_channels": 1280,
                "clip_image_in_channels": 768,
                "switch_level": (False,),
                "timestep_conditioning_type": ("sca", "crp"),
            },
        ),
        "decoder": Network(
            "StableCascadeUNet",
            {
                "in_channels": 4,
                "out_channels": 4,
                "patch_size": 2,
                "conditioning_dim": 1280,
                "block_out_channels": (320, 640, 1280, 1280),
                "num_attention_heads": (0, 0, 20, 20),
                "down_num_layers_per_block": (2, 6, 28, 6),
                "up_num_layers_per_block": (6, 28, 6, 2),
                "down_blocks_repeat_mappers": (1, 1, 1, 1),
                "up_blocks_repeat_mappers": (3, 3, 2, 2),
                "block_types_per_layer": (_RESNET_AND_TIME, _RESNET_AND_TIME, _WITH_ATTENTION, _WITH_ATTENTION),
                "clip_text_pooled_in_channels": 1280,
                "dropout": (0.0, 0.0, 0.1, 0.1),
                "effnet_in_channels": 16,
                "pixel_mapper_in_channels": 3,
                "timestep_conditioning_type": ("sca",),
            },
        ),
        "text_encoder": OPENCLIP_BIGG_PROJECTED,
    },
)
