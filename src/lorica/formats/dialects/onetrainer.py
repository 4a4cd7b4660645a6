"""OneTrainer's own format ("legacy"): flat names with the paths of diffusers for every model.

``lora_transformer_transformer_blocks_0_attn_to_q.lora_down.weight``. For UNets the names are those that Kohya files
may have too: then the metadata tells (``ot_branch``, ``ot_config``).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lorica.adapters import Adapter
from lorica.formats.account import Account
from lorica.formats.dialects.dialect import Parsed
from lorica.formats.dialects.naming import Naming, compose_named, parse_flat
from lorica.formats.embeddings import embedding_tensors
from lorica.formats.keys import Keys
from lorica.formats.names import Prefixes
from lorica.formats.spelling import spelling_of
from lorica.formats.storage.files import Stored
from lorica.formats.writing import LYCORIS_LEAVES
from lorica.models import Target

NAME = "onetrainer"
# Component to the prefixes of its flat names: all are read, and the first is the one that is written.
PREFIXES: dict[str, tuple[str, ...]] = {
    "unet": ("lora_unet",),
    "transformer": ("lora_transformer",),
    "prior": ("lora_prior_unet", "lora_transformer"),
    "text_encoder": ("lora_te1", "lora_te", "lora_prior_te"),
    "text_encoder_2": ("lora_te2",),
    "text_encoder_3": ("lora_te3",),
    "text_encoder_4": ("lora_te4",),
}
MARK = "ot_format"  # written, where the keys alone are also Kohya's
METADATA = (MARK, "ot_branch")
_STARTS = tuple(f"{prefix}_" for every in PREFIXES.values() for prefix in every)


def recognises(keys: Keys) -> bool:
    """Tell whether the keys are flat and the metadata, or a prefix that only this format has, say OneTrainer."""
    named = any(name in keys.metadata for name in METADATA)
    return keys.start("lora_transformer_") or (named and keys.start(*_STARTS))


def parse(stored: Stored, target: Target | None, account: Account) -> Parsed:
    """Return the meaning of the keys: looked up in the target's table, or in that of the family that fits best."""
    return parse_flat(stored, target, account, NAMING)


def compose(adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Return the tensors under flat names.

    Raises:
        FormatError: listing what the format cannot hold.
    """
    tensors = compose_named(adapter, target, NAMING, LYCORIS_LEAVES)
    return {**tensors, **embedding_tensors(adapter, spelling_of(adapter, NAME))}, {MARK: "legacy"}


def prefixes(model: Target) -> Prefixes:
    """Return the prefixes for a model: an only text encoder has no number."""
    alone = "text_encoder_2" not in model.components
    return {**PREFIXES, "text_encoder": ("lora_te", "lora_te1", "lora_prior_te")} if alone else PREFIXES


NAMING = Naming(NAME, prefixes, "_")
