"""Configurations from which the tables are made, as in the published models' own ``config.json`` files."""

from __future__ import annotations

from lorica.models.published import cascades, transformers, unets, videos
from lorica.models.published.network import Network, Published

PUBLISHED: dict[str, Published] = {
    "sd1": unets.SD1,
    "sd2": unets.SD2,
    "sdxl": unets.SDXL,
    "sdxl_refiner": unets.SDXL_REFINER,
    "sd3_medium": transformers.SD3_MEDIUM,
    "sd35_medium": transformers.SD35_MEDIUM,
    "sd35_large": transformers.SD35_LARGE,
    "flux_dev": transformers.FLUX_DEV,
    "flux_schnell": transformers.FLUX_SCHNELL,
    "kandinsky22": unets.KANDINSKY22,
    "wuerstchen": cascades.WUERSTCHEN,
    "stable_cascade": cascades.STABLE_CASCADE,
    "cogvideox_2b": videos.COGVIDEOX_2B,
    "cogvideox_5b": videos.COGVIDEOX_5B,
    "cogvideox15_5b": videos.COGVIDEOX15_5B,
    "ltx_video_2b": videos.LTX_VIDEO_2B,
    "ltx_video_13b": videos.LTX_VIDEO_13B,
    "hunyuan_video": videos.HUNYUAN_VIDEO,
    "wan21_t2v_1_3b": videos.WAN21_T2V_1_3B,
    "wan21_t2v_14b": videos.WAN21_T2V_14B,
    "wan21_i2v_14b": videos.WAN21_I2V_14B,
    "wan22_t2v_14b": videos.WAN22_T2V_14B,
    "wan22_i2v_14b": videos.WAN22_I2V_14B,
    "wan22_ti2v_5b": videos.WAN22_TI2V_5B,
    "qwen_image": transformers.QWEN_IMAGE,
    "z_image": transformers.Z_IMAGE,
    "sana_600m": transformers.SANA_600M,
    "sana_1600m": transformers.SANA_1600M,
    "sana15_1600m": transformers.SANA15_1600M,
    "sana15_4800m": transformers.SANA15_4800M,
    "sana_sprint_1600m": transformers.SANA_SPRINT_1600M,
    "pixart_alpha": transformers.PIXART_ALPHA,
    "pixart_sigma": transformers.PIXART_SIGMA,
    "auraflow": transformers.AURAFLOW,
    "lumina2": transformers.LUMINA2,
    "bundled": unets.BUNDLED,
}

__all__ = ["PUBLISHED", "Network", "Published"]
