"""Base models as adapters see them: components, blocks, default targets, spellings. Data, no weights."""

from __future__ import annotations

from lorica.models.target import Family, Target

FAMILIES: dict[str, Family] = {
    name: Family(name)
    for name in (
        "sd1", "sd2", "sdxl", "sdxl_refiner", "sd3_medium", "sd35_medium", "sd35_large", "flux_dev", "flux_schnell",
        "kandinsky22", "wuerstchen", "stable_cascade",
        "cogvideox_2b", "cogvideox_5b", "cogvideox15_5b", "ltx_video_2b", "ltx_video_13b", "hunyuan_video",
        "wan21_t2v_1_3b", "wan21_t2v_14b", "wan21_i2v_14b", "wan22_t2v_14b", "wan22_i2v_14b", "wan22_ti2v_5b",
        "qwen_image", "z_image", "sana_600m", "sana_1600m", "sana15_1600m", "sana15_4800m", "sana_sprint_1600m",
        "pixart_alpha", "pixart_sigma", "auraflow", "lumina2", "bundled",
    )
}  # fmt: skip

__all__ = ["FAMILIES", "Family", "Target"]
