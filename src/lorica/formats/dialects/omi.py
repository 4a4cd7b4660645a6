"""The OMI format, which OneTrainer wrote for a time: the original model's names with dots.

``transformer.double_blocks.0.img_attn.qkv.1.lora_down.weight``: a part of a fused weight has its number.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lorica.adapters import Adapter
from lorica.formats.account import Account
from lorica.formats.dialects.dialect import Parsed
from lorica.formats.dialects.naming import Naming, compose_named, parse_named, split_all
from lorica.formats.embeddings import embedding_tensors
from lorica.formats.keys import Keys
from lorica.formats.names import Prefixes
from lorica.formats.spelling import spelling_of
from lorica.formats.storage.files import Stored
from lorica.formats.writing import LYCORIS_LEAVES
from lorica.models import Target

NAME = "omi"
# Component to the prefixes of its names: all are read, and the first is the one that is written.
PREFIXES: dict[str, tuple[str, ...]] = {
    "unet": ("unet",),
    "transformer": ("transformer",),
    "prior": ("prior",),
    "text_encoder": ("clip_l",),
    "text_encoder_2": ("clip_g",),
    "text_encoder_3": ("t5",),
}
STYLES = ("bfl", "native", "ldm")
BRANCH = {"ot_branch": "omi_format"}
_ORIGINAL = (
    "unet.input_blocks.", "unet.middle_block.", "unet.output_blocks.", "unet.time_embed.", "unet.label_emb.",
    "transformer.double_blocks.", "transformer.single_blocks.", "transformer.joint_blocks.", "clip_l.", "clip_g.",
)  # fmt: skip


def recognises(keys: Keys) -> bool:
    """Tell whether the metadata says so, or any key has the original model's names behind a component's."""
    if keys.metadata.get("ot_branch") == BRANCH["ot_branch"]:
        return keys.start("unet.", "transformer.", "prior.", "clip_l.", "clip_g.", "t5.")
    return keys.start(*_ORIGINAL)


def parse(stored: Stored, target: Target | None, account: Account) -> Parsed:
    """Return the meaning of the keys: looked up in the target's table, or in that of the family that fits best."""
    return parse_named(stored, target, account, NAMING, split_all(stored.tensors, account))


def compose(adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Return the tensors under the original model's names.

    Raises:
        FormatError: listing what the format cannot hold.
    """
    tensors = compose_named(adapter, target, NAMING, LYCORIS_LEAVES)
    return {**tensors, **embedding_tensors(adapter, spelling_of(adapter, NAME))}, BRANCH


def prefixes(model: Target) -> Prefixes:
    """Return the prefixes for a model: the second text encoder of Flux is a T5."""
    if "transformer" in model.components and "text_encoder_3" not in model.components:
        return {**PREFIXES, "text_encoder_2": PREFIXES["text_encoder_3"]}
    return PREFIXES


NAMING = Naming(NAME, prefixes, ".", STYLES, numbered=True)
