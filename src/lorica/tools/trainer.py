"""Which program made a file, from its metadata and from how its keys are spelled."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lorica.tools.facts import Claim


@dataclass(frozen=True, slots=True)
class Sign:
    """What gives a program away.

    Args:
        program: its short name.
        title: what people call it.
        entry: an entry of the metadata, and what its value contains; ``""`` is any value.
        spelling: what some key contains.
    """

    program: str
    title: str
    entry: tuple[str, str] | None = None
    spelling: str | None = None


# The first that fits is it: our own and other surely named ones, then what others may have copied.
SIGNS: tuple[Sign, ...] = (
    Sign("lorica", "Lorica", entry=("lorica.version", "")),
    Sign("ai-toolkit", "ai-toolkit", entry=("software", "ai-toolkit")),
    Sign("onetrainer", "OneTrainer", entry=("ot_revision", "")),
    Sign("onetrainer", "OneTrainer", entry=("ot_branch", "")),
    Sign("onetrainer", "OneTrainer", entry=("ot_config", "")),
    Sign("lycoris", "LyCORIS in kohya's sd-scripts", entry=("ss_network_module", "lycoris")),
    Sign("musubi-tuner", "musubi-tuner", entry=("ss_network_module", "networks.lora_wan")),
    Sign("musubi-tuner", "musubi-tuner", entry=("ss_network_module", "networks.lora_hunyuan")),
    Sign("sd-scripts", "kohya's sd-scripts", entry=("ss_network_module", "networks.")),
    Sign("sd-scripts", "kohya's sd-scripts or a descendant", entry=("ss_output_name", "")),
    Sign("sd-scripts", "kohya's sd-scripts or a descendant", entry=("ss_network_dim", "")),
    Sign("simpletuner", "SimpleTuner", entry=("modelspec.implementation", "SimpleTuner")),
    Sign("diffusers", "diffusers", entry=("lora_adapter_metadata", "")),
    Sign("peft", "PEFT itself", spelling="base_model.model."),
    Sign("onetrainer", "OneTrainer", spelling="lora_transformer_"),
    Sign("lycoris", "LyCORIS, alone or in SimpleTuner", spelling="lycoris_"),
    Sign("xlabs", "x-flux (XLabs)", spelling=".processor.qkv_lora1."),
    Sign("diffusers", "diffusers before 0.27", spelling=".processor.to_"),
    Sign("diffusers", "diffusers before 0.27", spelling=".lora_linear_layer."),
    Sign("cloneofsimo", "cloneofsimo's lora", spelling="unet:0:"),
)
# What the spelling of a whole format says, if nothing else does.
STYLES: dict[str, str] = {
    "kohya": "keys in kohya's spelling: sd-scripts, one of its descendants, or a converter",
    "diffusers": "keys in the spelling of diffusers and PEFT",
}


def trainer_of(keys: Collection[str], metadata: Mapping[str, str], format_name: str) -> Claim:
    """Return the program that made a file, and what gives it away."""
    text = "\n".join(keys)
    for sign in SIGNS:
        evidence = _evidence(sign, text, metadata)
        if evidence:
            return Claim(sign.program, _title(sign, metadata), (evidence,))
    style = STYLES.get(format_name, f"keys in the {format_name} spelling")
    return Claim(None, "unknown: the file does not say", (style,))


def _evidence(sign: Sign, keys: str, metadata: Mapping[str, str]) -> str | None:
    """Return what gives a program away, or None; the keys are a line each."""
    if sign.entry:
        name, part = sign.entry
        value = metadata.get(name)
        found = value is not None and part in value
        return f"metadata {name} = {value:.60}" if found and value and len(value) < 200 else f"metadata {name}" * found
    if sign.spelling and sign.spelling in keys:
        key = next(key for key in keys.split("\n") if sign.spelling in key)
        return f"key {key}"
    return None


def _title(sign: Sign, metadata: Mapping[str, str]) -> str:
    """Return the program's title, with its version where the metadata holds one."""
    version = metadata.get("lorica.version") if sign.program == "lorica" else None
    if sign.program == "ai-toolkit":
        version = _version(metadata.get("software", ""))
    return f"{sign.title} {version}" if version else sign.title


def _version(software: str) -> str | None:
    try:
        version = json.loads(software)["version"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(version)
