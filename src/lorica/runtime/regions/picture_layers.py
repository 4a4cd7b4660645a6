"""Which layers of a model act on the picture, and along which axis of their output it lies.

The shape of a tensor does not always tell: a text may have as many tokens as the picture. So the name of a layer comes
first; layers that see text and picture in one sequence are in a table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from lorica.runtime.model.supported_layers import layer_at

# Layers that never see the picture itself, but what it is made from: text, another picture's features, the time.
_CONDITION = re.compile(
    r"(^|[._])(context|caption|captions|text|txt|cap|clip|prompt|add|added|add_embedding|encoder_hid_proj"
    r"|image_embedder|image_proj|ip|time_embed|time_embedding|time_emb_proj|time_proj|kv_mapper"
    r"|distilled_guidance_layer)([._]|$)"
)
# The same by the class of the model, where the names alone would say too much: HiDream's ``to_q_t`` is the text's.
_TEXT: dict[str, tuple[str, ...]] = {"HiDreamImageTransformer2DModel": ("*_t", "*_t.*")}
_KEYS_AND_VALUES = re.compile(r"^(.*)\.(to_k|to_v|to_kv|norm_k)$")
_CROSS_ATTENTION = ("attn2", "cross_attn", "cross_attention")

# Layers that see the tokens that were chosen for them.
_EXPERTS = "*.experts.*"

# Layers whose tokens are the frames of one point of a video: the points are along the batch.
_OVER_TIME = re.compile(r"(^|\.)(motion_modules|temp_attentions|temporal_transformer_blocks|transformer_in)\.")


@dataclass(frozen=True, slots=True)
class Joint:
    """Layers that see text and picture in one sequence.

    Args:
        paths: a glob on their module paths.
        text_first: whether the text stands in front of the picture.
    """

    paths: str
    text_first: bool


_SINGLE_BLOCKS = Joint("single_transformer_blocks.*", text_first=True)
JOINT: dict[str, Joint] = {
    "FluxTransformer2DModel": _SINGLE_BLOCKS,
    "Flux2Transformer2DModel": _SINGLE_BLOCKS,
    "ChromaTransformer2DModel": _SINGLE_BLOCKS,
    "BriaTransformer2DModel": _SINGLE_BLOCKS,
    "LongCatImageTransformer2DModel": _SINGLE_BLOCKS,
    "OvisImageTransformer2DModel": _SINGLE_BLOCKS,
    "AuraFlowTransformer2DModel": _SINGLE_BLOCKS,
    "HunyuanVideoTransformer3DModel": Joint("single_transformer_blocks.*", text_first=False),
    "HunyuanImageTransformer2DModel": Joint("single_transformer_blocks.*", text_first=False),
    "CogVideoXTransformer3DModel": Joint("transformer_blocks.*", text_first=True),
    "CogView3PlusTransformer2DModel": Joint("transformer_blocks.*", text_first=True),
    "CogView4Transformer2DModel": Joint("transformer_blocks.*.attn1.*", text_first=True),
    "WuerstchenPrior": Joint("*.attention.*", text_first=False),
    "WuerstchenDiffNeXt": Joint("*.attention.*", text_first=False),
    "StableCascadeUNet": Joint("*.attention.*", text_first=False),
}


class Side(Enum):
    """What the output of a layer is about."""

    MINGLED = "tokens in another order, sorted by what treats them"
    PICTURE = "tokens or points of the picture"
    TEXT_THEN_PICTURE = "tokens of the picture, or of the text and then the picture"
    PICTURE_THEN_TEXT = "tokens of the picture, or of the picture and then the text"
    TIME = "frames, the points of the picture being along the batch"
    CONDITION = "what the picture is made from"


def side_of(component: nn.Module, path: str) -> Side:
    """The side that the output of a layer is on."""
    if _OVER_TIME.search(path):
        return Side.TIME
    if fnmatchcase(path, _EXPERTS):
        return Side.MINGLED
    of_text = any(fnmatchcase(path, glob) for glob in _TEXT.get(type(component).__name__, ()))
    if of_text or _CONDITION.search(path) or _sees_the_text(component, path):
        return Side.CONDITION
    joint = JOINT.get(type(component).__name__)
    if joint is not None and fnmatchcase(path, joint.paths):
        return Side.TEXT_THEN_PICTURE if joint.text_first else Side.PICTURE_THEN_TEXT
    return Side.PICTURE


def _sees_the_text(component: nn.Module, path: str) -> bool:
    """Whether a layer makes the keys or values of an attention from picture to text."""
    found = _KEYS_AND_VALUES.match(path)
    if found is None:
        return False
    attention: Any = layer_at(component, found[1])
    known = getattr(attention, "is_cross_attention", None)
    if known is None:
        return found[1].rpartition(".")[2] in _CROSS_ATTENTION
    # Kandinsky's and DeepFloyd's attention takes text by layers of its own (add_k_proj), beside the picture's.
    beside = type(attention).__name__ == "Attention" and getattr(attention, "added_kv_proj_dim", None) is not None
    return bool(known) and not beside
