"""The format of diffusers and PEFT: ``unet.<path>.lora_A.weight``, alphas in the metadata; and its older spellings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from torch import Tensor

from lorica.adapters import Adapter, AdapterLayer
from lorica.formats.account import Account, spelling_of
from lorica.formats.dialects.bfl_control import BFL_CONTROL
from lorica.formats.dialects.comfyui import COMFYUI
from lorica.formats.dialects.control_lora import CONTROL_LORA
from lorica.formats.dialects.dialect import Dialect, Parsed
from lorica.formats.dialects.hcp import HCP
from lorica.formats.dialects.omi import OMI
from lorica.formats.dialects.paths import COMPONENTS, read_paths
from lorica.formats.dialects.peft import PEFT, peft_settings
from lorica.formats.dialects.uso import USO
from lorica.formats.dialects.xlabs import XLABS
from lorica.formats.keys_to_modules import EMBEDDINGS, FileModules, Keys, split_dotted
from lorica.formats.methods.leaves import leaf_tables
from lorica.formats.names import Location
from lorica.formats.peft_config import METADATA_KEY, make_config, parse_strengths
from lorica.formats.storage.files import FileContents
from lorica.formats.unit_scaling import alphas_of, with_unit_scaling
from lorica.formats.writing import Writer, refuse_embeddings
from lorica.models import Target
from lorica.models.clip import with_wrapper

# Formats with dotted names that say more.
_SPECIAL = (BFL_CONTROL, COMFYUI, CONTROL_LORA, HCP, OMI, PEFT, USO, XLABS)
# What the attention processors wrote behind a dot: ``to_q_lora.down.weight``.
_PROCESSOR_ENDINGS = {"_lora.down.weight": "lora.down", "_lora.up.weight": "lora.up"}
# The attention of the first diffusers versions kept its adapter in the processor, under names of its own.
_PROCESSOR = re.compile(r"(?P<attention>.+?)(\.processor)?\.to_(?P<part>q|k|v|out)")
_FLAT = ("lora_", "lycoris_", "oft_unet_", EMBEDDINGS)
_HARD_TO_READ = re.compile(r".*\.(q_proj|k_proj|v_proj|out_proj)")
# Stock diffusers loads LoRAs and DoRAs alone, with biases as PEFT trains them.
_WRITTEN = ("lora.down", "lora.up", "lora.bias", "dora.output_magnitude")


class _Diffusers(Dialect):
    def recognises(self, keys: Keys) -> bool:
        dotted = [key for key in keys.kinds.split("\n") if not key.startswith(_FLAT)]
        of_lora = any(mark in key for key in dotted for mark in (".lora_", ".lora.", "_lora."))
        ours = of_lora or leaf_tables().mark(dotted)
        return ours and not keys.all_start(*_FLAT) and not any(other.recognises(keys) for other in _SPECIAL)

    def parse(self, contents: FileContents, target: Target | None, account: Account) -> Parsed:
        strengths = parse_strengths(contents.metadata, contents.source)

        def alpha(component: str, path: str, rank: int) -> float | None:
            config = strengths.get(component, strengths.get(""))
            return config.alpha_of(path, rank) if config else None

        modules = FileModules(contents, split_dotted(contents.tensors, account, split_processor))
        components = {*COMPONENTS, *(target.components if target else ()), *strengths} - {""}
        paths = read_paths(target, components, modules, account)
        return Parsed(modules, paths.find, paths.target, alpha, paths.known, zero_is_rank=False)

    def compose(self, adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
        del target
        refuse_embeddings(adapter, self.name)
        writer = Writer(self.name, {}, spelling_of(adapter, self.name), with_alpha=False, zero_alpha=True)
        config: dict[str, object] = {}
        for component, own in adapter.components.items():
            layers = with_unit_scaling(own)
            writer.leaves = _leaves_for(component, layers)
            tables = {path for path in layers if path.endswith((".token_embedding", ".position_embedding"))}
            for path in tables:
                writer.refused[f"{component}.{path}"] = "it is an embedding table, which stock diffusers cannot load."
            others = {path: layer for path, layer in layers.items() if path not in tables}
            names = {f"{component}.{with_wrapper(path)}": Location.of(component, path) for path in others}
            writer.add_component(component, others, names)
            settings = {**make_config(layers), **peft_settings(layers)}
            config.update({f"{component}.{name}": value for name, value in settings.items()})
        return writer.finish(), {METADATA_KEY: json.dumps(config, sort_keys=True), **alphas_of(adapter)}


def split_processor(key: str) -> tuple[str, str] | None:
    """The module path and the meaning of a key of an attention processor; None if it is no such key."""
    for ending, meaning in _PROCESSOR_ENDINGS.items():
        if key.endswith(ending):
            return _from_processor(key.removesuffix(ending)), meaning
    return None


def _from_processor(path: str) -> str:
    """The module path for the old spelling ``<attention>.processor.to_q``."""
    old = _PROCESSOR.fullmatch(path)
    if not old:
        return path
    in_text_encoder = old["attention"].endswith("self_attn")
    part = f"{old['part']}_proj" if in_text_encoder else "to_out.0" if old["part"] == "out" else f"to_{old['part']}"
    return f"{old['attention']}.{part}"


def _leaves_for(component: str, layers: Mapping[str, AdapterLayer]) -> Mapping[str, str]:
    """Meaning to what is written behind a module's name.

    Stock diffusers cannot tell the spelling of a text encoder that has adapters outside of its attention only, unless
    they are spelled ``lora_linear_layer``.
    """
    plain = all(set(layer.tensors) == {"down", "up"} for layer in layers.values())
    if plain and component.startswith("text_encoder") and not any(_HARD_TO_READ.fullmatch(path) for path in layers):
        return {"lora.down": "lora_linear_layer.down.weight", "lora.up": "lora_linear_layer.up.weight"}
    written = leaf_tables().peft
    return {meaning: written[meaning] for meaning in _WRITTEN}


DIFFUSERS = _Diffusers(name="diffusers")
