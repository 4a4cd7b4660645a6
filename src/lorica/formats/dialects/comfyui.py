"""The format of ComfyUI and of trainers that write for it (ai-toolkit, diffusion-pipe, musubi's converter).

``diffusion_model.<path in the original model>.lora_A.weight``, dots kept. A missing alpha means the rank.
"""

from __future__ import annotations

from collections.abc import Mapping

from lorica.adapters import AdapterLayer
from lorica.formats.dialects.naming import WrittenDialect, with_second_t5
from lorica.formats.keys_to_modules import Keys
from lorica.formats.methods.layers import leaves_of
from lorica.formats.methods.leaves import leaf_tables
from lorica.formats.methods.method import Form
from lorica.formats.names import Prefixes
from lorica.formats.writing import exact_scalar
from lorica.models import Target

_DENOISER = ("diffusion_model", "model.diffusion_model", "diffusion_model.transformer")


class _ComfyUI(WrittenDialect):
    def recognises(self, keys: Keys) -> bool:
        ours = super().recognises(keys) and not keys.hold(".processor.")
        return ours and (keys.hold(".lora") or leaf_tables().mark(keys.kinds.split("\n")))

    def prefixes_of(self, model: Target) -> Prefixes:
        return with_second_t5(self.prefixes, model)

    def leaves(self) -> Mapping[str, str]:
        tables = leaf_tables()  # a LoRA's as PEFT spells them
        return {**tables.lycoris, **{leaf: tables.peft[leaf] for leaf in ("lora.down", "lora.up")}}

    def special(self, layer: AdapterLayer, name: str) -> Form | None:
        """The tensors of a layer with a Tucker core, which ComfyUI looks for beside ``lora_down`` alone."""
        del name
        tensors = leaves_of(layer)
        if "lora.mid" not in tensors:
            return None
        leaves = leaf_tables().lycoris
        alpha = exact_scalar(layer.alpha, tensors["lora.mid"].dtype)
        return {**{leaves[meaning]: tensor for meaning, tensor in tensors.items()}, leaves["alpha"]: alpha}


COMFYUI = _ComfyUI(
    name="comfyui",
    starts=(*(f"{prefix}." for prefix in _DENOISER), "text_encoders."),
    prefixes={
        **dict.fromkeys(("unet", "transformer", "prior"), _DENOISER),
        "text_encoder": ("text_encoders.clip_l.transformer", "text_encoders.clip_l"),
        "text_encoder_2": ("text_encoders.clip_g.transformer", "text_encoders.clip_g"),
        "text_encoder_3": ("text_encoders.t5xxl.transformer", "text_encoders.t5xxl"),
    },
    styles=("comfy", "bfl", "native", "ldm"),
)
