"""Textual-inversion embeddings within an adapter's file: ``bundle_emb.<token>.<leaf>``.

A1111 writes ``string_to_param.*`` and does not say which text encoder; OneTrainer names it: ``clip_l``, ``clip_g``,
``t5``, and ``clip_l_out`` for what is learned at the encoder's output.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lorica.adapters import Adapter
from lorica.errors import FormatError
from lorica.formats.account import Account, FileSpelling
from lorica.formats.keys_to_modules import EMBEDDINGS, twice
from lorica.formats.storage.files import FileContents

_ANY = "string_to_param.*"  # A1111: of the only text encoder
_PARAMETERS = "emb_params"  # the same of a .safetensors file that was packed into the bundle
_COMPONENTS = {_ANY: "text_encoder", _PARAMETERS: "text_encoder", "clip_l": "text_encoder", "clip_g": "text_encoder_2"}
_OUT = "_out"
Embeddings = Mapping[str, Mapping[str, Tensor]]  # token to component to vectors


def read_embeddings(contents: FileContents, account: Account) -> Embeddings:
    """The embeddings of a file, whose keys count as used.

    Raises:
        FormatError: if two keys are the vectors of one token for one text encoder, or one holds no vectors.
    """
    if EMBEDDINGS not in "\n".join(contents.tensors):
        return {}
    found: dict[str, dict[str, Tensor]] = {}
    owner: dict[tuple[str, str], str] = {}
    for key, vectors in contents.tensors.items():
        if not key.startswith(EMBEDDINGS):
            continue
        token, leaf = split_embedding(key)
        component = _component_of(leaf, has_clip_g=f"{EMBEDDINGS}{token}.clip_g" in contents.tensors)
        other = owner.setdefault((token, component), key)
        if other != key:
            raise twice(contents.source, other, key, f"vectors of {token!r} for the {component}")
        if vectors.ndim not in (1, 2) or not vectors.is_floating_point():
            raise FormatError(
                f"{contents.source}: {key!r} is {tuple(vectors.shape)} of {vectors.dtype}; expected the vectors of "
                "a token, of shape (n, width)."
            )
        found.setdefault(token, {})[component] = vectors
        account.used.append(key)
        account.spelling.embeddings[token, component] = key
    return found


def split_embedding(key: str) -> tuple[str, str]:
    """The token and the leaf of a key; a token may hold dots."""
    rest = key.removeprefix(EMBEDDINGS)
    if rest.endswith(f".{_ANY}"):
        return rest.removesuffix(f".{_ANY}"), _ANY
    token, _, leaf = rest.rpartition(".")
    return token, leaf


def embedding_tensors(adapter: Adapter, spelling: FileSpelling, *, alone: str = "clip_l") -> dict[str, Tensor]:
    """The vectors under the keys that they were read from, or those that the programs look for.

    Args:
        adapter: the adapter whose embeddings they are.
        spelling: how they were spelled when they were read.
        alone: the leaf for the only text encoder of a model.
    """
    return {
        spelling.embeddings.get((token, component))
        or f"{EMBEDDINGS}{token}.{_leaf_of(component, adapter, alone)}": vectors
        for token, parts in adapter.embeddings.items()
        for component, vectors in parts.items()
    }


def _component_of(leaf: str, *, has_clip_g: bool) -> str:
    if leaf.startswith("<"):  # a diffusers' concept, which has the token for a key
        return "text_encoder"
    bare, out = (leaf.removesuffix(_OUT), _OUT) if leaf.endswith(_OUT) else (leaf, "")
    t5 = "text_encoder_3" if has_clip_g else "text_encoder_2"  # Stable Diffusion 3 has both, Flux has no clip_g
    return (t5 if bare == "t5" else _COMPONENTS.get(bare, bare)) + out


def _leaf_of(component: str, adapter: Adapter, alone: str) -> str:
    bare, out = (component.removesuffix(_OUT), _OUT) if component.endswith(_OUT) else (component, "")
    encoders = {*adapter.components, *(name for parts in adapter.embeddings.values() for name in parts)}
    if bare == "text_encoder":
        return ("clip_l" if out or "text_encoder_2" in encoders else alone) + out
    second = "t5" if "transformer" in encoders and "text_encoder_3" not in encoders else "clip_g"
    return {"text_encoder_2": second, "text_encoder_3": "t5"}.get(bare, bare) + out
