"""Tiny networks of every class that a family is made of: few blocks, small widths, sizes as unlike as can be."""

from __future__ import annotations

from typing import Any

from torch import nn

from lorica.models.generate import build
from lorica.models.published import Network

_CASCADE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "timestep_ratio_embedding_dim": 6,
    "conditioning_dim": 20,
    "block_out_channels": (16, 24),
    "num_attention_heads": (2, 4),
    "down_num_layers_per_block": (1, 2),
    "up_num_layers_per_block": (2, 1),
    "clip_text_pooled_in_channels": 14,
    "clip_seq": 2,
}

TINY_NETWORKS: dict[str, Network] = {
    "flux.bfl": Network(
        "FluxTransformer2DModel",
        {
            "in_channels": 4,
            "num_layers": 2,
            "num_single_layers": 3,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 28,
            "pooled_projection_dim": 20,
            "axes_dims_rope": (4, 4, 8),
            "guidance_embeds": True,
        },
    ),
    "sd3.native": Network(
        "SD3Transformer2DModel",
        {
            "sample_size": 8,
            "in_channels": 3,
            "num_layers": 3,
            "attention_head_dim": 8,
            "num_attention_heads": 3,
            "joint_attention_dim": 28,
            "caption_projection_dim": 24,
            "pooled_projection_dim": 20,
            "out_channels": 5,
            "pos_embed_max_size": 6,
            "dual_attention_layers": (0, 1),
            "qk_norm": "rms_norm",
        },
    ),
    "auraflow.native": Network(
        "AuraFlowTransformer2DModel",
        {
            "sample_size": 8,
            "in_channels": 3,
            "num_mmdit_layers": 2,
            "num_single_dit_layers": 3,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 28,
            "caption_projection_dim": 16,
            "out_channels": 5,
            "pos_embed_max_size": 9,
        },
    ),
    "lumina2.native": Network(
        "Lumina2Transformer2DModel",
        {
            "sample_size": 8,
            "in_channels": 3,
            "hidden_size": 24,
            "num_layers": 3,
            "num_refiner_layers": 2,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "multiple_of": 10,
            "axes_dim_rope": (2, 2, 2),
            "cap_feat_dim": 28,
        },
    ),
    "z_image.native": Network(
        "ZImageTransformer2DModel",
        {
            "in_channels": 3,
            "dim": 32,
            "n_layers": 3,
            "n_refiner_layers": 2,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": 28,
            "axes_dims": [4, 6, 6],
            "axes_lens": [8, 8, 8],
        },
    ),
    "pixart.native": Network(
        "PixArtTransformer2DModel",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 4,
            "out_channels": 7,
            "num_layers": 2,
            "cross_attention_dim": 24,
            "sample_size": 8,
            "caption_channels": 28,
            "use_additional_conditions": True,
        },
    ),
    "sana.native": Network(
        "SanaTransformer2DModel",
        {
            "in_channels": 3,
            "out_channels": 5,
            "num_attention_heads": 2,
            "attention_head_dim": 6,
            "num_layers": 2,
            "num_cross_attention_heads": 3,
            "cross_attention_head_dim": 4,
            "cross_attention_dim": 12,
            "caption_channels": 28,
            "sample_size": 8,
            "qk_norm": "rms_norm_across_heads",
        },
    ),
    "stable_cascade_prior.native": Network(
        "StableCascadeUNet", {**_CASCADE, "clip_text_in_channels": 10, "clip_image_in_channels": 12}
    ),
    "stable_cascade_decoder.native": Network(
        "StableCascadeUNet", {**_CASCADE, "effnet_in_channels": 7, "pixel_mapper_in_channels": 5}
    ),
    "wan.native": Network(
        "WanTransformer3DModel",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 3,
            "out_channels": 5,
            "text_dim": 28,
            "freq_dim": 14,
            "ffn_dim": 40,
            "num_layers": 2,
            "image_dim": 10,
            "added_kv_proj_dim": 24,
            "rope_max_seq_len": 8,
        },
    ),
    "hunyuan_video.native": Network(
        "HunyuanVideoTransformer3DModel",
        {
            "in_channels": 3,
            "out_channels": 5,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 2,
            "num_single_layers": 3,
            "num_refiner_layers": 2,
            "text_embed_dim": 28,
            "pooled_projection_dim": 20,
            "rope_axes_dim": (4, 6, 6),
        },
    ),
    "ltx_video.native": Network(
        "LTXVideoTransformer3DModel",
        {
            "in_channels": 3,
            "out_channels": 5,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "cross_attention_dim": 24,
            "num_layers": 2,
            "caption_channels": 28,
        },
    ),
    "cogvideox.native": Network(
        "CogVideoXTransformer3DModel",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 3,
            "out_channels": 5,
            "time_embed_dim": 10,
            "text_embed_dim": 28,
            "num_layers": 2,
            "sample_width": 4,
            "sample_height": 4,
            "sample_frames": 9,
            "max_text_seq_length": 7,
        },
    ),
}


def tiny_network(name: str) -> nn.Module:
    """Return the tiny network whose modules the spelling of that name spells, with random weights."""
    return build(TINY_NETWORKS[name]).eval()
