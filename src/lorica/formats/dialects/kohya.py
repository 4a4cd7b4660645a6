"""Kohya's format (sd-scripts, A1111, ComfyUI, LyCORIS): flat names, ``lora_unet_conv_in.lora_down.weight``.

A missing alpha, or one of 0, means the rank, as in the scripts that made the format.
"""

from __future__ import annotations

from collections.abc import Collection

from lorica.formats.dialects.naming import WrittenDialect
from lorica.formats.dialects.onetrainer import ONETRAINER
from lorica.formats.dialects.wan_fun import WAN_FUN
from lorica.formats.keys_to_modules import Keys
from lorica.formats.names import Prefixes
from lorica.models import Target

_OFT = "oft_unet"  # the prefix of the scripts' own OFT, which is only read


class _Kohya(WrittenDialect):
    def recognises(self, keys: Keys) -> bool:
        return super().recognises(keys) and not any(other.recognises(keys) for other in (ONETRAINER, WAN_FUN))

    def prefixes_of(self, model: Target) -> Prefixes:
        known = model.components
        if "text_encoder_2" not in known:  # an only text encoder has no number
            prior = ("lora_prior_te",) if "prior" in known else ()
            return {**self.prefixes, "text_encoder": ("lora_te", "lora_te1", *prior)}
        if "text_encoder" not in known and "unet" in known:  # SDXL's refiner has the second of its base alone
            return {**self.prefixes, "text_encoder": (), "text_encoder_2": ("lora_te2", "lora_te")}
        if "transformer" in known and "text_encoder_3" not in known:  # Flux' second is a T5
            return {**self.prefixes, "text_encoder_2": ("lora_te3", "lora_te2")}
        return self.prefixes

    def styles_of(self, model: Target | None) -> Collection[str]:
        # The scripts write the original's block names for Stable Diffusion XL.
        sdxl = model is not None and "add_embedding.linear_1" in model.components.get("unet", {})
        return (*self.styles, "ldm") if sdxl else self.styles


KOHYA = _Kohya(
    name="kohya",
    starts=("lora_unet_", f"{_OFT}_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_prior_"),
    prefixes={
        "unet": ("lora_unet", _OFT),
        "text_encoder": ("lora_te1", "lora_te", "lora_prior_te"),
        "text_encoder_2": ("lora_te2",),
        "text_encoder_3": ("lora_te3",),
        "transformer": ("lora_unet", _OFT),
        "prior": ("lora_prior_unet", "lora_unet"),
    },
    joint="_",
    styles=("bfl", "native", "comfy"),
    lone_embedding="string_to_param.*",
)
