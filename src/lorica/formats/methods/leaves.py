"""What follows a module's name in a key, in all spellings, and what it means: one table for every format.

A meaning is ``method.leaf``, where the leaf is the name that the method's layer gives the tensor, or one of those that
several methods share: ``alpha``, ``magnitude`` (DoRA), ``bias``, ``scale`` (A1111's alpha / rank), and ``reshape``
(ComfyUI's shape of the weight, which is padded with zeros up to it: a first layer with more inputs).
"""

from __future__ import annotations

import re

SHARED = ("alpha", "magnitude", "bias", "scale", "reshape")

# Spelling to meaning. No spelling is the end of another behind a dot, so the order in which they are tried is free.
LEAVES: dict[str, str] = {
    "lora_down.weight": "lora.down",
    "lora_up.weight": "lora.up",
    "lora_mid.weight": "lora.mid",
    "bias_indices": "lora.bias_indices",
    "bias_values": "lora.bias_values",
    "bias_size": "lora.bias_size",
    "lora_A.weight": "lora.down",
    "lora_B.weight": "lora.up",
    "lora_A": "lora.down",
    "lora_B": "lora.up",
    "lora.down.weight": "lora.down",
    "lora.up.weight": "lora.up",
    "lora_linear_layer.down.weight": "lora.down",
    "lora_linear_layer.up.weight": "lora.up",
    "lora_embedding_A": "lora.table_down",
    "lora_embedding_B": "lora.table_up",
    "alpha": "alpha",
    "lora_alpha": "alpha",
    "scale": "scale",
    "reshape_weight": "reshape",
    "dora_scale": "magnitude",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "magnitude": "magnitude",
    "lora_B.bias": "bias",
    "lora_up.bias": "bias",
    "diff_b": "bias",
    "hada_w1_a": "loha.w1_a",
    "hada_w1_b": "loha.w1_b",
    "hada_w2_a": "loha.w2_a",
    "hada_w2_b": "loha.w2_b",
    "hada_t1": "loha.t1",
    "hada_t2": "loha.t2",
    "lokr_w1": "lokr.w1",
    "lokr_w1_a": "lokr.w1_a",
    "lokr_w1_b": "lokr.w1_b",
    "lokr_w2": "lokr.w2",
    "lokr_w2_a": "lokr.w2_a",
    "lokr_w2_b": "lokr.w2_b",
    "lokr_t2": "lokr.t2",
    "a1.weight": "glora.a1",
    "a2.weight": "glora.a2",
    "b1.weight": "glora.b1",
    "b2.weight": "glora.b2",
    "bm.weight": "glora.mid",
    "on_input": "ia3.on_input",
    "ia3_l": "ia3.vector",
    "oft_blocks": "oft.blocks",
    "oft_diag": "oft.rotations",
    "rescale": "oft.rescale",
    "oft_R.weight": "oft_v2.vectors",
    "oft_R.scaled_oft": "oft_v2.scaled",
    "diff": "full.diff",
    "set_weight": "set_weight.weight",
    "w_norm": "norm.diff",
    "b_norm": "norm.bias",
    "vera_lambda_b": "vera.lambda_b",
    "vera_lambda_d": "vera.lambda_d",
}
# What a leaf that is not known here is of, for a better message than "unknown".
FOREIGN: dict[str, str] = {
    "dyn_dim": "a rank that changes while it is used (A1111)",
}
_LONGEST = max(leaf.count(".") for leaf in LEAVES) + 1
# What PEFT has in a live model, behind whose leaves stands the adapter's name: ``lora_A.default.weight``.
_NAMED = re.compile(
    r"(?P<leaf>.+\.(lora_(embedding_)?[AB]|lora_magnitude_vector|hada_\w+|lokr_\w+|oft_R|ia3_l|vera_lambda_[bd]))"
    r"\.[^.]+(?P<end>\.weight|\.bias)?"
)
_UNKNOWN = "?"  # before a leaf that has no meaning, so that it cannot be taken for one


def split_dotted(key: str) -> tuple[str, str] | None:
    """Return the module's name and the meaning of a key; None if it ends in no leaf known.

    A longer leaf is preferred: ``lora_B.bias`` to a plain ``bias``.
    """
    found = _split_end(key)
    if found is None and (named := _NAMED.fullmatch(key)):
        return _split_end(named["leaf"] + (named["end"] or ""))
    return found


def unknown(leaf: str) -> str:
    """Return what stands for the meaning of a leaf that has none."""
    return _UNKNOWN + leaf


def as_written(meaning: str) -> str:
    """Return a meaning, or the leaf for which :func:`unknown` made it."""
    return meaning.removeprefix(_UNKNOWN)


def _split_end(key: str) -> tuple[str, str] | None:
    cut = len(key)
    for _ in range(_LONGEST):
        cut = key.rfind(".", 0, cut)
        if cut < 0:
            return None
        meaning = LEAVES.get(key[cut + 1 :])
        if meaning is not None:
            return key[:cut], meaning
    return None
