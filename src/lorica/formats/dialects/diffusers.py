"""The format of diffusers and PEFT: ``unet.<path>.lora_A.weight``, alphas in the metadata; and its older spellings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from lorica.adapters import Adapter, AdapterLayer
from lorica.formats.account import Account
from lorica.formats.dialects import bfl_control, comfyui, control_lora, hcp, omi, peft, uso, xlabs
from lorica.formats.dialects.dialect import Parsed
from lorica.formats.dialects.paths import COMPONENTS, Paths
from lorica.formats.keys import Keys
from lorica.formats.methods.layers import group
from lorica.formats.methods.leaves import split_dotted
from lorica.formats.peft_config import METADATA_KEY, make_config, parse_strengths
from lorica.formats.places import whole
from lorica.formats.spelling import spelling_of
from lorica.formats.storage.files import Stored
from lorica.formats.writing import PEFT_LEAVES, Writer, refuse_embeddings
from lorica.models import Target
from lorica.models.clip import with_wrapper

NAME = "diffusers"
# What the attention processors wrote behind a dot: ``to_q_lora.down.weight``.
_PROCESSOR_ENDINGS = {"_lora.down.weight": "lora.down", "_lora.up.weight": "lora.up"}
# The attention of the first diffusers versions kept its adapter in the processor, under names of its own.
_PROCESSOR = re.compile(r"(?P<attention>.+?)(\.processor)?\.to_(?P<part>q|k|v|out)")
_FLAT = ("lora_", "lycoris_", "oft_unet_", "bundle_emb.")
_MARKS = re.compile(
    r"\n(?!lora_|lycoris_|oft_unet_)[^\n]*"
    r"(\.lora_|\.lora\.|_lora\.|\.hada_w|\.lokr_w|\.oft_|\.(diff|diff_b|set_weight|w_norm|b_norm|on_input)\n)"
)
_HARD_TO_READ = re.compile(r".*\.(q_proj|k_proj|v_proj|out_proj)")


def recognises(keys: Keys) -> bool:
    """Tell whether the keys are dotted module paths with the endings of an adapter, and of no format more special."""
    others = (bfl_control, comfyui, control_lora, hcp, omi, peft, uso, xlabs)
    return (
        bool(_MARKS.search(keys.kinds))
        and not keys.all_start(*_FLAT)
        and not any(other.recognises(keys) for other in others)
    )


def parse(stored: Stored, target: Target | None, account: Account) -> Parsed:
    """Return the meaning of the keys; with a target, only of those whose module it has."""
    strengths = parse_strengths(stored.metadata, stored.source)
    places = Paths(target, {*COMPONENTS, *(target.components if target else ()), *strengths} - {""})

    def alpha(component: str, path: str, rank: int) -> float | None:
        config = strengths.get(component, strengths.get(""))
        return config.alpha_of(path, rank) if config else None

    modules = group(_split(stored.tensors, account), stored.source)
    return Parsed(modules, places.find, target, alpha, places.known, zero_is_rank=False)


def compose(adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Return the tensors under the names that stock diffusers with PEFT loads, and the alphas as metadata.

    Raises:
        FormatError: listing what the format cannot hold.
    """
    del target
    refuse_embeddings(adapter, NAME)
    spelling = spelling_of(adapter, NAME)
    writer = Writer(NAME, {}, spelling, with_alpha=False, zero_alpha=True)
    config: dict[str, object] = {}
    for component, layers in adapter.components.items():
        writer.leaves = _leaves_for(component, layers)
        tables = {path for path in layers if path.endswith((".token_embedding", ".position_embedding"))}
        for path in tables:
            writer.refused[f"{component}.{path}"] = "it is an embedding table, which stock diffusers cannot load."
        names = {f"{component}.{with_wrapper(path)}": whole(component, path) for path in layers if path not in tables}
        writer.add_component(component, {path: layer for path, layer in layers.items() if path not in tables}, names)
        config.update({f"{component}.{name}": value for name, value in make_config(layers).items()})
    return writer.finish(), {METADATA_KEY: json.dumps(config, sort_keys=True)}


def split_key(key: str) -> tuple[str, str] | None:
    """Return a key's module path, component included, and its meaning; None if the ending is not of this format."""
    split = split_dotted(key)
    if split:
        return split
    for ending, meaning in _PROCESSOR_ENDINGS.items():
        if key.endswith(ending):
            return _from_processor(key.removesuffix(ending)), meaning
    return None


def _split(keys: Iterable[str], account: Account) -> Iterator[tuple[str, str, str]]:
    for key in keys:
        split = split_key(key)
        if split is None:
            account.leave([key], "its ending is none that this format knows.")
        else:
            yield key, *split


def _from_processor(path: str) -> str:
    """Return the module path for the old spelling ``<attention>.processor.to_q``."""
    old = _PROCESSOR.fullmatch(path)
    if not old:
        return path
    in_text_encoder = old["attention"].endswith("self_attn")
    part = f"{old['part']}_proj" if in_text_encoder else "to_out.0" if old["part"] == "out" else f"to_{old['part']}"
    return f"{old['attention']}.{part}"


def _leaves_for(component: str, layers: Mapping[str, AdapterLayer]) -> Mapping[str, str]:
    """Return what to write behind a module's name, by meaning.

    Stock diffusers cannot tell the spelling of a text encoder that has adapters outside of its attention only, unless
    they are spelled ``lora_linear_layer``.
    """
    plain = all(set(layer.tensors) == {"down", "up"} for layer in layers.values())
    if plain and component.startswith("text_encoder") and not any(_HARD_TO_READ.fullmatch(path) for path in layers):
        return {"lora.down": "lora_linear_layer.down.weight", "lora.up": "lora_linear_layer.up.weight"}
    return PEFT_LEAVES
