"""The format of ComfyUI and of trainers that write for it (ai-toolkit, diffusion-pipe, musubi's converter).

``diffusion_model.<path in the original model>.lora_A.weight``, dots kept. A missing alpha means the rank.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lorica.adapters import Adapter
from lorica.formats.account import Account
from lorica.formats.dialects.dialect import Parsed
from lorica.formats.dialects.naming import Naming, compose_named, parse_named, split_all
from lorica.formats.keys import Keys
from lorica.formats.names import Prefixes
from lorica.formats.storage.files import Stored
from lorica.formats.writing import LYCORIS_LEAVES, refuse_embeddings
from lorica.models import Target

NAME = "comfyui"
_START = "diffusion_model"
LEAVES = {**LYCORIS_LEAVES, "lora.down": "lora_A.weight", "lora.up": "lora_B.weight"}
_MARKS = (".lora", ".hada_", ".lokr_", ".oft_")
_ENDS = (".diff", ".diff_b", ".set_weight", ".w_norm", ".b_norm", ".a1.weight", ".on_input")
# Component to the prefixes of its names: all are read, and the first is the one that is written.
PREFIXES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("unet", "transformer", "prior"), (_START, f"model.{_START}")),
    "text_encoder": ("text_encoders.clip_l.transformer", "text_encoders.clip_l"),
    "text_encoder_2": ("text_encoders.clip_g.transformer", "text_encoders.clip_g"),
    "text_encoder_3": ("text_encoders.t5xxl.transformer", "text_encoders.t5xxl"),
}
STYLES = ("comfy", "bfl", "native", "ldm")


def recognises(keys: Keys) -> bool:
    """Tell whether any key begins with the prefix of the denoiser or of the text encoders, and any is an adapter's."""
    ours = keys.start(f"{_START}.", f"model.{_START}.", "text_encoders.") and not keys.hold(".processor.")
    return ours and (keys.hold(*_MARKS) or keys.end(*_ENDS))


def parse(stored: Stored, target: Target | None, account: Account) -> Parsed:
    """Return the meaning of the keys: looked up in the target's table, or in that of the family that fits best."""
    return parse_named(stored, target, account, NAMING, split_all(stored.tensors, account))


def compose(adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Return the tensors under the original model's names.

    Raises:
        FormatError: listing what the format cannot hold.
    """
    refuse_embeddings(adapter, NAME)
    return compose_named(adapter, target, NAMING, LEAVES), {}


def prefixes(model: Target) -> Prefixes:
    """Return the prefixes for a model: the second text encoder of Flux is a T5."""
    if "transformer" in model.components and "text_encoder_3" not in model.components:
        return {**PREFIXES, "text_encoder_2": PREFIXES["text_encoder_3"]}
    return PREFIXES


NAMING = Naming(NAME, prefixes, ".", STYLES)
