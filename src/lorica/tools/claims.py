"""Conclusions about a file, each with its evidence: the base model that it is for, and the program that made it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lorica.adapters import Adapter
from lorica.formats.base_model import candidates_for, families_of
from lorica.formats.reading import BASE_MODEL_FIELDS
from lorica.models import FAMILIES
from lorica.models.detect import Candidate
from lorica.tools.facts import Claim


@dataclass(frozen=True, slots=True)
class Sign:
    """Evidence of a program: a metadata entry, or the spelling of a key.

    Args:
        program: its short name.
        title: its name for people.
        entry: a metadata field and a part of its value; ``""`` is any value.
        spelling: a part of some key.
    """

    program: str
    title: str
    entry: tuple[str, str] | None = None
    spelling: str | None = None


# The first match wins: entries that only one program writes come before those that others may have copied.
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
# Evidence of the format alone, where there is no other.
STYLES: dict[str, str] = {
    "kohya": "keys in kohya's spelling: sd-scripts, one of its descendants, or a converter",
    "diffusers": "keys in the spelling of diffusers and PEFT",
}


def base_of(adapter: Adapter) -> Claim:
    """Base model of an adapter, as reading settled on it, or all those that it fits equally.

    A base model that only the metadata names does not count where the file's own names and sizes fit exactly one other.
    """
    report = adapter.report
    named = report.base_model if report else None
    shown = report.evidence if report else ()
    candidates: Sequence[Candidate] = ()
    if not shown and len(adapter):
        candidates = candidates_for(adapter)
        shown = candidates[0].evidence if candidates else ("none of its modules is known of any base model here.",)
        fitting = [candidate.family for candidate in candidates if candidate.fits]
        if named not in fitting and len(fitting) == 1:
            named = fitting[0]
    evidence = (*_stated(adapter.metadata), *shown)
    if named is not None:
        return Claim(named, FAMILIES[named].title, evidence)
    titles = [family.title for family in families_of(adapter, candidates)]
    if not titles:
        return Claim(None, "unknown", evidence)
    return Claim(None, " or ".join(titles), (*evidence, f"it fits {' and '.join(titles)} alike."))


def _stated(metadata: Mapping[str, str]) -> Iterator[str]:
    """Base models that the metadata names."""
    for field in BASE_MODEL_FIELDS:
        if metadata.get(field, "None") != "None":
            yield f"metadata {field} = {metadata[field]:.80}"


def trainer_of(keys: Collection[str], metadata: Mapping[str, str], format_name: str) -> Claim:
    """Program that made a file, with the evidence."""
    text = "\n".join(keys)
    for sign in SIGNS:
        evidence = _evidence(sign, text, metadata)
        if evidence:
            return Claim(sign.program, _title(sign, metadata), (evidence,))
    style = STYLES.get(format_name, f"keys in the {format_name} spelling")
    return Claim(None, "unknown: the file does not say", (style,))


def _evidence(sign: Sign, keys: str, metadata: Mapping[str, str]) -> str | None:
    """Evidence of a program in a file, or None; the keys are one per line."""
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
    """Title of the program, with its version where the metadata holds one."""
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
