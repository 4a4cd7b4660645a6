"""The format of VideoX-Fun for Wan: flat names of the original model behind two underscores.

``lora_unet__blocks_0_self_attn_q.lora_down.weight``.
"""

from __future__ import annotations

from lorica.formats.dialects.naming import WrittenDialect

WAN_FUN = WrittenDialect(
    name="wan_fun",
    starts=("lora_unet__", "lora_te__"),
    prefixes={"transformer": ("lora_unet_",), "text_encoder": ("lora_te_",)},
    joint="_",
    styles=("native",),
)
