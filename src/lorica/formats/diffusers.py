"""The format of diffusers and PEFT: ``unet.<path>.lora_A.weight``, alphas in the metadata; and its older spellings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from lorica.adapters import Adapter, AdapterLayer, LoRA
from lorica.errors import FormatError
from lorica.formats.account import Account
from lorica.formats.dialect import Parsed
from lorica.formats.files import Stored
from lorica.formats.layers import Found
from lorica.formats.names import BARE_MODULE
from lorica.formats.peft_config import METADATA_KEY, make_config, parse_strengths
from lorica.models import FAMILIES, Target
from lorica.models.clip import spellings, with_wrapper

NAME = "diffusers"
COMPONENTS = (
    "unet", "transformer", "transformer_2", "prior", "controlnet", "connectors", "text_conditioner",
    "text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4",
)  # fmt: skip
ENDINGS: dict[str, str] = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_B.bias": "bias",
    ".lora_magnitude_vector": "lora_magnitude_vector",
    ".lora_magnitude_vector.weight": "lora_magnitude_vector",
    ".lora_embedding_A": "lora_embedding",
    ".lora_embedding_B": "lora_embedding",
    ".alpha": "alpha",
}
_NAMED = re.compile(r"(?P<path>.+)\.lora_(?P<half>[AB])\.[^.]+\.weight")  # PEFT with an adapter's name in the key
_WRAPPER = "base_model.model."
# The attention of the first diffusers versions kept its adapter in the processor, under names of its own.
_PROCESSOR = re.compile(r"(?P<attention>.+?)(\.processor)?\.to_(?P<part>q|k|v|out)")
_MARKS = (".lora_", ".lora.", "_lora.")
_HARD_TO_READ = re.compile(r".*\.(q_proj|k_proj|v_proj|out_proj)")


def recognises(keys: Iterable[str]) -> bool:
    """Tell whether any key is a dotted module path with one of the endings of this format."""
    return any(not key.startswith("lora_") and any(mark in key for mark in _MARKS) for key in keys)


def parse(stored: Stored, target: Target | None, account: Account) -> Parsed:
    """Return the meaning of the keys; with a target, only of those whose module it has."""
    strengths = parse_strengths(stored.metadata, stored.source)
    places = _Places(target, {*COMPONENTS, *(target.components if target else ()), *strengths} - {""})

    def alpha(component: str, path: str, rank: int) -> float | None:
        config = strengths.get(component, strengths.get(""))
        return config.alpha_of(path, rank) if config else None

    return Parsed(_found(stored.tensors, places, account), target, alpha, places.known)


def compose(adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Return the tensors under the names that stock diffusers with PEFT loads, and the alphas as metadata.

    Raises:
        FormatError: if the adapter holds what the format cannot: Tucker cores, embeddings.
    """
    del target
    if adapter.embeddings:
        raise FormatError(f"the {NAME} format holds no embeddings; this adapter has {len(adapter.embeddings)}.")
    tensors: dict[str, Tensor] = {}
    config: dict[str, object] = {}
    for component, layers in adapter.components.items():
        down, up = _endings_for(component, layers)
        for path, layer in layers.items():
            lora = _plain(layer, f"{component}.{path}")
            name = f"{component}.{with_wrapper(path)}"
            tensors[name + down], tensors[name + up] = lora.down, lora.up
        config.update(make_config(component, layers))
    return tensors, {METADATA_KEY: json.dumps(config, sort_keys=True)}


def split_key(key: str) -> tuple[str, str] | None:
    """Return a key's module path, component included, and its leaf; None if the ending is not of this format."""
    for ending, leaf in ENDINGS.items():
        if key.endswith(ending):
            path = key.removesuffix(ending)
            return (_from_processor(path), leaf) if ending.startswith("_") else (path, leaf)
    named = _NAMED.fullmatch(key)
    return (named["path"], "down" if named["half"] == "A" else "up") if named else None


class _Places:
    """Where the paths of a file stand: component and module path, as the target spells them."""

    def __init__(self, target: Target | None, components: set[str]) -> None:
        self._target = target
        self._components = components

    def known(self) -> list[str]:
        """Return every path that could have been used."""
        if self._target is None:
            return []
        return [f"{component}.{path}" for component, path, _ in self._target.modules()]

    def find(self, path: str) -> tuple[str, str] | str:
        """Return component and module path, or the reason why there is no such module."""
        bare = path.removeprefix(_WRAPPER)
        component, _, rest = bare.partition(".")
        if component not in self._components:
            return self._find_anywhere(bare)
        rest = rest.removeprefix(_WRAPPER)
        if self._target is None:
            return component, with_wrapper(rest)
        return self._find_in(self._target, component, rest)

    def _find_in(self, target: Target, component: str, path: str) -> tuple[str, str] | str:
        home = BARE_MODULE if set(target.components) == {BARE_MODULE} else component
        if home not in target.components:
            return f"the model has no component {component!r}, only {', '.join(target.components)}."
        for spelling in spellings(path):
            if spelling in target.components[home]:
                return home, spelling
        return f"the model has no module of this path in its {home}."

    def _find_anywhere(self, path: str) -> tuple[str, str] | str:
        """Return where a path without a component belongs: the only component that has it."""
        targets = [self._target] if self._target else [family.target for family in FAMILIES.values()]
        homes = {
            (component, spelling)
            for target in targets
            for component, shapes in target.components.items()
            for spelling in spellings(path)
            if spelling in shapes
        }
        if len(homes) == 1:
            return homes.pop()
        if homes:
            names = " and ".join(sorted(name for name, _ in homes))
            return f"its path names no component, and {names} have such a module."
        return f"its path begins with no component ({', '.join(COMPONENTS[:3])}, ...), and no model known has it."


def _found(tensors: Mapping[str, Tensor], places: _Places, account: Account) -> Iterator[Found]:
    seen: dict[str, tuple[str, str] | str] = {}
    for key in tensors:
        split = split_key(key)
        if split is None:
            account.leave([key], "its ending is none that this format knows.")
            continue
        path, leaf = split
        place = seen.get(path) or seen.setdefault(path, places.find(path))
        if isinstance(place, str):
            account.leave_stranger(key, path, place)
        else:
            yield Found(key, *place, leaf)


def _from_processor(path: str) -> str:
    """Return the module path for the old spelling ``<attention>.processor.to_q``."""
    old = _PROCESSOR.fullmatch(path)
    if not old:
        return path
    in_text_encoder = old["attention"].endswith("self_attn")
    part = f"{old['part']}_proj" if in_text_encoder else "to_out.0" if old["part"] == "out" else f"to_{old['part']}"
    return f"{old['attention']}.{part}"


def _endings_for(component: str, layers: Mapping[str, AdapterLayer]) -> tuple[str, str]:
    """Return the endings to write.

    Stock diffusers cannot tell the spelling of a text encoder that has adapters outside of its attention only, unless
    they are spelled ``lora_linear_layer``.
    """
    if component.startswith("text_encoder") and not any(_HARD_TO_READ.fullmatch(path) for path in layers):
        return ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"
    return ".lora_A.weight", ".lora_B.weight"


def _plain(layer: AdapterLayer, name: str) -> LoRA:
    if not isinstance(layer, LoRA):
        raise FormatError(
            f"the {NAME} format holds plain LoRA layers only, and {name} is a {layer.kind} layer. Use format='kohya'."
        )
    if name.endswith((".token_embedding", ".position_embedding")):
        raise FormatError(f"{name} is an embedding table, which stock diffusers cannot load. Use format='kohya'.")
    return layer
