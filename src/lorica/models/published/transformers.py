"""Image models with a transformer.

Where a network has no settings here, the defaults of the diffusers class are the published model. The others are the
``config.json`` files of the repositories on the Hub, for Sana and PixArt also written out in diffusers'
``scripts/convert_sana_to_diffusers.py`` and ``scripts/convert_pixart_sigma_to_diffusers.py``. The text encoders that
nobody trains adapters for (Gemma, Qwen, Llama, UMT5) are left out.
"""

from __future__ import annotations

from lorica.models.published.network import Config, Network, Published
from lorica.models.published.text_encoders import CLIP_L, CLIP_L_PROJECTED, OPENCLIP_BIGG_PROJECTED, T5_XXL

_SD3_TEXT = {"text_encoder": CLIP_L_PROJECTED, "text_encoder_2": OPENCLIP_BIGG_PROJECTED, "text_encoder_3": T5_XXL}
_FLUX_TEXT = {"text_encoder": CLIP_L, "text_encoder_2": T5_XXL}
_SANA_SMALL: Config = {
    "num_attention_heads": 36,
    "num_cross_attention_heads": 16,
    "cross_attention_head_dim": 72,
    "cross_attention_dim": 1152,
    "num_layers": 28,
}
_NORMED: Config = {"qk_norm": "rms_norm_across_heads"}
_PIXART: Config = {"sample_size": 128, "caption_channels": 4096}


def _sd3(blocks: int, **more: object) -> Network:
    """Transformer of Stable Diffusion 3, whose number of heads and width follow from the number of its blocks."""
    sizes = {"num_layers": blocks, "num_attention_heads": blocks, "caption_projection_dim": 64 * blocks}
    return Network("SD3Transformer2DModel", {**sizes, **more})


def _sana(config: Config) -> dict[str, Network]:
    return {"transformer": Network("SanaTransformer2DModel", config)}


SD3_MEDIUM = Published(
    "Stable Diffusion 3 Medium",
    ("stable-diffusion-3-medium-diffusers", "stable-diffusion-3-medium", "stable-diffusion-3-m", "sd3"),
    {"transformer": _sd3(24), **_SD3_TEXT},
)
SD35_MEDIUM = Published(
    "Stable Diffusion 3.5 Medium",
    ("stable-diffusion-3.5-medium", "stable-diffusion-3-5-medium"),
    {"transformer": _sd3(24, qk_norm="rms_norm", dual_attention_layers=tuple(range(13))), **_SD3_TEXT},
)
SD35_LARGE = Published(
    "Stable Diffusion 3.5 Large",
    ("stable-diffusion-3.5-large", "stable-diffusion-3.5-large-turbo", "stable-diffusion-3-5-large"),
    {"transformer": _sd3(38, qk_norm="rms_norm"), **_SD3_TEXT},
)
FLUX_DEV = Published(
    "Flux.1 dev",
    ("flux.1-dev", "flux-1-dev", "flux.1-kontext-dev", "flux.1-krea-dev", "flux1-dev", "flux1"),
    {"transformer": Network("FluxTransformer2DModel", {"guidance_embeds": True}), **_FLUX_TEXT},
)
FLUX_SCHNELL = Published(
    "Flux.1 schnell",
    ("flux.1-schnell", "flux-1-schnell", "flux1-schnell"),
    {"transformer": Network("FluxTransformer2DModel"), **_FLUX_TEXT},
)
QWEN_IMAGE = Published(
    "Qwen-Image",
    ("qwen-image", "qwen-image-edit", "qwen-image-edit-2509", "qwen-image-2512"),
    {"transformer": Network("QwenImageTransformer2DModel")},
)
Z_IMAGE = Published(
    "Z-Image",
    ("z-image", "z-image-turbo"),
    {"transformer": Network("ZImageTransformer2DModel")},
)
SANA_600M = Published("Sana 0.6B", ("sana_600m_1024px_diffusers", "sana_600m_512px_diffusers"), _sana(_SANA_SMALL))
SANA_1600M = Published("Sana 1.6B", ("sana_1600m_1024px_diffusers", "sana_1600m_512px_diffusers"), _sana({}))
SANA15_1600M = Published("Sana 1.5 1.6B", ("sana1.5_1.6b_1024px_diffusers",), _sana(_NORMED))
SANA15_4800M = Published("Sana 1.5 4.8B", ("sana1.5_4.8b_1024px_diffusers",), _sana({**_NORMED, "num_layers": 60}))
SANA_SPRINT_1600M = Published(
    "Sana Sprint 1.6B", ("sana_sprint_1.6b_1024px_diffusers",), _sana({**_NORMED, "guidance_embeds": True})
)
PIXART_ALPHA = Published(
    "PixArt-alpha",
    ("pixart-xl-2-1024-ms",),
    {"transformer": Network("PixArtTransformer2DModel", _PIXART), "text_encoder": T5_XXL},
)
PIXART_SIGMA = Published(
    "PixArt-Sigma",
    ("pixart-sigma-xl-2-1024-ms", "pixart-sigma-xl-2-512-ms"),
    {
        "transformer": Network("PixArtTransformer2DModel", {**_PIXART, "use_additional_conditions": False}),
        "text_encoder": T5_XXL,
    },
)
AURAFLOW = Published(
    "AuraFlow",
    ("auraflow", "auraflow-v0.2", "auraflow-v0.3"),
    {"transformer": Network("AuraFlowTransformer2DModel")},
)
LUMINA2 = Published(
    "Lumina-Image 2.0",
    ("lumina-image-2.0", "lumina-2", "lumina2"),
    {"transformer": Network("Lumina2Transformer2DModel", {"cap_feat_dim": 2304})},
)
