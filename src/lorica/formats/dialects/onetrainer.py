"""OneTrainer's own format ("legacy"): flat names with the paths of diffusers for every model.

``lora_transformer_transformer_blocks_0_attn_to_q.lora_down.weight``. For UNets the names are those that Kohya files
may have too: then the metadata tells (``ot_branch``, ``ot_config``).
"""

from __future__ import annotations

from lorica.formats.dialects.naming import WrittenDialect
from lorica.formats.keys_to_modules import Keys
from lorica.formats.names import Prefixes
from lorica.models import Target

ONETRAINER_METADATA = (
    "ot_format",
    "ot_branch",
)  # what tells it from Kohya's; the first is written


class _OneTrainer(WrittenDialect):
    def recognises(self, keys: Keys) -> bool:
        named = any(name in keys.metadata for name in ONETRAINER_METADATA)
        every = (f"{prefix}_" for prefixes in self.prefixes.values() for prefix in prefixes)
        return keys.start("lora_transformer_") or (named and keys.start(*every))

    def prefixes_of(self, model: Target) -> Prefixes:
        if "text_encoder_2" in model.components:
            return self.prefixes  # an only text encoder has no number
        return {**self.prefixes, "text_encoder": ("lora_te", "lora_te1", "lora_prior_te")}


ONETRAINER = _OneTrainer(
    name="onetrainer",
    prefixes={
        "unet": ("lora_unet",),
        "transformer": ("lora_transformer",),
        "prior": ("lora_prior_unet", "lora_transformer"),
        "text_encoder": ("lora_te1", "lora_te", "lora_prior_te"),
        "text_encoder_2": ("lora_te2",),
        "text_encoder_3": ("lora_te3",),
        "text_encoder_4": ("lora_te4",),
    },
    joint="_",
    lone_embedding="clip_l",
    metadata={ONETRAINER_METADATA[0]: "legacy"},
)
