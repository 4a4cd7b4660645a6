"""The OMI format, which OneTrainer wrote for a time: the original model's names with dots.

``transformer.double_blocks.0.img_attn.qkv.1.lora_down.weight``: a part of a fused weight has its number.
"""

from __future__ import annotations

from lorica.formats.dialects.naming import WrittenDialect, with_second_t5
from lorica.formats.keys_to_modules import Keys
from lorica.formats.names import Prefixes
from lorica.models import Target

_BRANCH = {"ot_branch": "omi_format"}


class _OMI(WrittenDialect):
    def recognises(self, keys: Keys) -> bool:
        if keys.metadata.get("ot_branch") == _BRANCH["ot_branch"]:
            return keys.start(*(f"{prefix}." for (prefix,) in self.prefixes.values()))
        return super().recognises(keys)

    def prefixes_of(self, model: Target) -> Prefixes:
        return with_second_t5(self.prefixes, model)


OMI = _OMI(
    name="omi",
    starts=(
        "unet.input_blocks.", "unet.middle_block.", "unet.output_blocks.", "unet.time_embed.", "unet.label_emb.",
        "transformer.double_blocks.", "transformer.single_blocks.", "transformer.joint_blocks.", "clip_l.", "clip_g.",
    ),
    prefixes={
        "unet": ("unet",),
        "transformer": ("transformer",),
        "prior": ("prior",),
        "text_encoder": ("clip_l",),
        "text_encoder_2": ("clip_g",),
        "text_encoder_3": ("t5",),
    },
    styles=("bfl", "native", "ldm"),
    numbered=True,
    lone_embedding="clip_l",
    metadata=_BRANCH,
)  # fmt: skip
