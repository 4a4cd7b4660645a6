"""Video models.

The settings are those in diffusers' ``scripts/convert_cogvideox_to_diffusers.py``, ``convert_ltx_to_diffusers.py``,
``convert_hunyuan_video_to_diffusers.py`` and ``convert_wan_to_diffusers.py``, which made the published repositories;
what is not set here has the default of the diffusers class there. CogVideoX-5B's 42 blocks of 48 heads are in its
``config.json``.
"""

from __future__ import annotations

from lorica.models.published.network import Config, Network, Published
from lorica.models.published.text_encoders import CLIP_L

_COGVIDEOX_5B: Config = {"num_layers": 42, "num_attention_heads": 48, "use_rotary_positional_embeddings": True}
_WAN_SMALL: Config = {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}
_WAN_5B: Config = {
    "num_attention_heads": 24,
    "num_layers": 30,
    "ffn_dim": 14336,
    "in_channels": 48,
    "out_channels": 48,
}
_WAN_PICTURE: Config = {"in_channels": 36}
_WAN_PICTURE_ENCODED: Config = {**_WAN_PICTURE, "image_dim": 1280, "added_kv_proj_dim": 5120}


def _wan(config: Config, experts: int = 1) -> dict[str, Network]:
    """Transformers of a Wan model: version 2.2 has one for high and one for low noise."""
    names = ("transformer", "transformer_2")[:experts]
    return dict.fromkeys(names, Network("WanTransformer3DModel", config))


COGVIDEOX_2B = Published("CogVideoX 2B", ("cogvideox-2b",), {"transformer": Network("CogVideoXTransformer3DModel")})
COGVIDEOX_5B = Published(
    "CogVideoX 5B", ("cogvideox-5b",), {"transformer": Network("CogVideoXTransformer3DModel", _COGVIDEOX_5B)}
)
COGVIDEOX15_5B = Published(
    "CogVideoX 1.5 5B",
    ("cogvideox1.5-5b",),
    {"transformer": Network("CogVideoXTransformer3DModel", {**_COGVIDEOX_5B, "patch_size_t": 2, "patch_bias": False})},
)
LTX_VIDEO_2B = Published(
    "LTX-Video 2B",
    ("ltx-video", "ltx-video-0.9.5", "ltxv"),
    {"transformer": Network("LTXVideoTransformer3DModel")},
)
LTX_VIDEO_13B = Published(
    "LTX-Video 13B",
    ("ltx-video-0.9.7-dev", "ltx-video-0.9.7-distilled", "ltx-video-0.9.8-13b-distilled"),
    {
        "transformer": Network(
            "LTXVideoTransformer3DModel",
            {"num_layers": 48, "attention_head_dim": 128, "cross_attention_dim": 4096},
        )
    },
)
HUNYUAN_VIDEO = Published(
    "HunyuanVideo",
    ("hunyuanvideo", "hunyuan-video", "hunyuan_video"),
    {"transformer": Network("HunyuanVideoTransformer3DModel"), "text_encoder_2": CLIP_L},
)
WAN21_T2V_1_3B = Published("Wan 2.1 T2V 1.3B", ("wan2.1-t2v-1.3b-diffusers", "wan2.1-t2v-1.3b"), _wan(_WAN_SMALL))
WAN21_T2V_14B = Published("Wan 2.1 T2V 14B", ("wan2.1-t2v-14b-diffusers", "wan2.1-t2v-14b"), _wan({}))
WAN21_I2V_14B = Published(
    "Wan 2.1 I2V 14B",
    ("wan2.1-i2v-14b-480p-diffusers", "wan2.1-i2v-14b-720p-diffusers", "wan2.1-i2v-14b"),
    _wan(_WAN_PICTURE_ENCODED),
)
WAN22_T2V_14B = Published("Wan 2.2 T2V A14B", ("wan2.2-t2v-a14b-diffusers", "wan2.2-t2v-a14b"), _wan({}, experts=2))
WAN22_I2V_14B = Published(
    "Wan 2.2 I2V A14B", ("wan2.2-i2v-a14b-diffusers", "wan2.2-i2v-a14b"), _wan(_WAN_PICTURE, experts=2)
)
WAN22_TI2V_5B = Published("Wan 2.2 TI2V 5B", ("wan2.2-ti2v-5b-diffusers", "wan2.2-ti2v-5b"), _wan(_WAN_5B))
