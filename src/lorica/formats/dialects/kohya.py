"""Kohya's format (sd-scripts, A1111, ComfyUI, LyCORIS): flat names, ``lora_unet_conv_in.lora_down.weight``.

A missing alpha, or one of 0, means the rank, as in the scripts that made the format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from lorica.adapters import Adapter
from lorica.formats.account import Account
from lorica.formats.dialects import onetrainer, wan_fun
from lorica.formats.dialects.dialect import Parsed
from lorica.formats.dialects.naming import Naming, compose_named, model_for, parse_flat
from lorica.formats.embeddings import embedding_tensors
from lorica.formats.keys import Keys
from lorica.formats.names import Prefixes
from lorica.formats.spelling import spelling_of
from lorica.formats.storage.files import Stored
from lorica.formats.writing import LYCORIS_LEAVES
from lorica.models import Target

NAME = "kohya"
# Component to the prefixes of its flat names: all are read, and the first is the one that is written.
PREFIXES: dict[str, tuple[str, ...]] = {
    "unet": ("lora_unet",),
    "text_encoder": ("lora_te1", "lora_te", "lora_prior_te"),
    "text_encoder_2": ("lora_te2",),
    "text_encoder_3": ("lora_te3",),
    "transformer": ("lora_unet",),
    "prior": ("lora_prior_unet", "lora_unet"),
}
STYLES = ("bfl", "native", "comfy")
_OFT = "oft_unet"  # the prefix that the scripts' own OFT has
_STARTS = ("lora_unet_", f"{_OFT}_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_prior_")


def recognises(keys: Keys) -> bool:
    """Tell whether any key starts as flat names do, and none as those of formats that resemble this one."""
    return keys.start(*_STARTS) and not onetrainer.recognises(keys) and not wan_fun.recognises(keys)


def parse(stored: Stored, target: Target | None, account: Account) -> Parsed:
    """Return the meaning of the keys: looked up in the target's table, or in that of the family that fits best."""
    of_oft = next(iter(stored.tensors), "").startswith(_OFT)
    return parse_flat(stored, target, account, NAMING_OF_OFT if of_oft else NAMING)


def compose(adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Return the tensors under flat names: for Stable Diffusion XL with the original's block names, as the scripts do.

    Raises:
        FormatError: listing what the format cannot hold.
    """
    model = model_for(adapter, target, NAMING)
    sdxl = model is not None and "add_embedding.linear_1" in model.components.get("unet", {})
    naming = replace(NAMING, styles=(*STYLES, "ldm")) if sdxl else NAMING
    tensors = compose_named(adapter, model, naming, LYCORIS_LEAVES)
    return {**tensors, **embedding_tensors(adapter, spelling_of(adapter, NAME), alone="string_to_param.*")}, {}


def prefixes(model: Target) -> Prefixes:
    """Return the prefixes for a model: an only text encoder has no number, and Flux' T5, its second, the third's.

    The only text encoder of the refiner of Stable Diffusion XL is the second of its base.
    """
    known = model.components
    if "text_encoder_2" not in known:
        return {**PREFIXES, "text_encoder": ("lora_te", "lora_te1", *(("lora_prior_te",) if "prior" in known else ()))}
    if "text_encoder" not in known and "unet" in known:
        return {**PREFIXES, "text_encoder": (), "text_encoder_2": ("lora_te2", "lora_te")}
    if "transformer" in known and "text_encoder_3" not in known:
        return {**PREFIXES, "text_encoder_2": ("lora_te3", "lora_te2")}
    return PREFIXES


def _prefixes_of_oft(model: Target) -> Prefixes:
    return {**prefixes(model), "unet": (_OFT,), "transformer": (_OFT,)}


NAMING = Naming(NAME, prefixes, "_", STYLES)
NAMING_OF_OFT = Naming(NAME, _prefixes_of_oft, "_", STYLES)
