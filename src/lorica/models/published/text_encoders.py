"""The text encoders that adapters are made for: CLIP's and T5's.

CLIP-L is ``openai/clip-vit-large-patch14``, OpenCLIP's H and bigG are the repositories of LAION (Stable Diffusion 2
leaves out the last layer of H), T5-XXL is ``google/t5-v1_1-xxl``; the numbers are those of their ``config.json`` files.
"""

from __future__ import annotations

from typing import Any

from lorica.models.published.network import Network

_CLIP_L: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
_OPENCLIP_BIGG: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}

CLIP_L = Network("CLIPTextModel", _CLIP_L)
CLIP_L_PROJECTED = Network("CLIPTextModelWithProjection", {**_CLIP_L, "projection_dim": 768})
OPENCLIP_H = Network(
    "CLIPTextModel",
    {
        "vocab_size": 49408,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
    },
)
OPENCLIP_BIGG = Network("CLIPTextModel", _OPENCLIP_BIGG)
OPENCLIP_BIGG_PROJECTED = Network("CLIPTextModelWithProjection", _OPENCLIP_BIGG)
T5_XXL = Network(
    "T5EncoderModel",
    {
        "vocab_size": 32128,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
    },
)
