"""Kohya's format (sd-scripts, A1111, ComfyUI, LyCORIS): flat names, ``lora_unet_conv_in.lora_down.weight``.

A missing alpha, or one of 0, means the rank, as in the scripts that made the format.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from lorica.adapters import Adapter
from lorica.formats.account import Account
from lorica.formats.dialect import Parsed
from lorica.formats.files import Stored
from lorica.formats.flat import compose_flat, parse_flat
from lorica.formats.names import Prefixes
from lorica.formats.writing import refuse_embeddings
from lorica.models import Target

NAME = "kohya"
# Component to the prefixes of its flat names: all are read, and the first is the one that is written.
PREFIXES: dict[str, tuple[str, ...]] = {
    "unet": ("lora_unet",),
    "text_encoder": ("lora_te1", "lora_te"),
    "text_encoder_2": ("lora_te2",),
    "text_encoder_3": ("lora_te3",),
    "transformer": ("lora_unet", "lora_transformer"),
    "prior": ("lora_prior_unet",),
}
ONLY_TEXT_ENCODER = "lora_te"  # the prefix that is written when a model has one text encoder
STYLES = ("bfl", "native", "comfy")
_STARTS = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_transformer_", "lora_prior_")


def recognises(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Tell whether any key starts as flat names do."""
    del metadata
    return any(key.startswith(_STARTS) for key in keys)


def parse(stored: Stored, target: Target | None, account: Account) -> Parsed:
    """Return the meaning of the keys: looked up in the target's table, or in that of the family that fits best."""
    del account
    return parse_flat(stored, target, PREFIXES)


def compose(adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Return the tensors under flat names.

    Raises:
        FormatError: if the adapter holds what the format cannot: shared flat names, an alpha of 0, embeddings.
    """
    refuse_embeddings(adapter, NAME)
    known = {*adapter.components, *(target.components if target else ())}
    return compose_flat(adapter, target, NAME, _written(known), STYLES), {}


def _written(components: Collection[str]) -> Prefixes:
    alone = "text_encoder_2" not in components
    return {**PREFIXES, "text_encoder": (ONLY_TEXT_ENCODER,)} if alone else PREFIXES
