"""From a source to an adapter: recognise the format, account for every key, check every tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from lorica.adapters import Adapter, AdapterLayer
from lorica.errors import FormatError
from lorica.formats import looks
from lorica.formats.account import Account
from lorica.formats.dialect import Dialect, Parsed
from lorica.formats.files import Stored
from lorica.formats.layers import Leaves, build, check_finite, check_numbers, fitted, group, missing_half
from lorica.models import FAMILIES, Target

# Metadata that may name the base model, the surest first.
BASE_MODEL_FIELDS = ("modelspec.architecture", "ss_base_model_version", "base_model", "ss_sd_model_name")
# What the leaves of methods that cannot be read yet belong to.
METHODS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "on_input": "IA3",
    "diff": "a full difference",
    "w_norm": "a norm",
    "b_norm": "a norm",
    "bias": "a LoRA with a bias",
    "lora_embedding": "an embedding table",
}
_READ = {"down", "up", "mid", "alpha"}


def recognise(stored: Stored, formats: Mapping[str, Dialect]) -> Dialect:
    """Return the one format that a file is in.

    Raises:
        FormatError: if none recognises it, or several do.
    """
    if not stored.tensors:
        raise FormatError(f"{stored.source} holds no tensors at all.")
    found = [dialect for dialect in formats.values() if dialect.recognises(stored.tensors)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(dialect.NAME for dialect in found)
        raise FormatError(f"{stored.source} holds keys of several formats ({names}); a file is in one.")
    sample = ", ".join(list(stored.tensors)[:3])
    raise FormatError(
        f"{stored.source} is in no adapter format that is known here ({', '.join(formats)}): its "
        f"{len(stored.tensors)} keys begin {sample}. {_whole_model(stored.tensors)}"
    )


def interpret(stored: Stored, dialect: Dialect, target: Target | None, *, strict: bool) -> Adapter:
    """Return the adapter that a file in a known format holds.

    Raises:
        FormatError: if a tensor is broken or, when strict, a key has no use.
        ShapeError: if the tensors of a module do not fit each other.
    """
    account = Account(dialect.NAME, stored.source)
    parsed = dialect.parse(stored, target, account)
    modules = group(parsed.found, stored.source)
    check_finite(stored)
    adapter = Adapter(_components(stored, parsed, modules, account), metadata=_kept(stored.metadata))
    report = account.report(_base_model(adapter))
    if strict and report.unused:
        raise account.error(parsed.known(), looks.sentence(stored.tensors, parsed.target))
    return replace(adapter, report=report)


def _components(
    stored: Stored, parsed: Parsed, modules: Mapping[tuple[str, str], Leaves], account: Account
) -> dict[str, dict[str, AdapterLayer]]:
    components: dict[str, dict[str, AdapterLayer]] = {}
    for (component, path), leaves in modules.items():
        layer = _layer(stored, parsed, (component, path), leaves)
        if isinstance(layer, str):
            account.leave(leaves.values(), layer)
        else:
            components.setdefault(component, {})[path] = layer
            account.used.extend(leaves.values())
    return components


def _layer(stored: Stored, parsed: Parsed, place: tuple[str, str], leaves: Leaves) -> AdapterLayer | str:
    """Return the layer of one module, or the reason why there is none."""
    problem = _unreadable(leaves) or missing_half(leaves)
    if problem:
        return problem
    check_numbers(stored, leaves)
    component, path = place
    alpha = _stored_alpha(stored, leaves)
    if alpha is None:
        alpha = parsed.default_alpha(component, path, stored.tensors[leaves["down"]].shape[0])
    layer = build(stored.tensors, leaves, alpha, stored.source)
    if parsed.target is None:
        return layer
    shape = parsed.target.components[component][path]
    misfit = f"it changes a weight of shape {layer.weight_shape}, but the model has {shape} there."
    return fitted(layer, shape) or misfit


def _unreadable(leaves: Iterable[str]) -> str | None:
    strange = [leaf for leaf in leaves if leaf not in _READ]
    if not strange:
        return None
    method = next((title for start, title in METHODS.items() if strange[0].startswith(start)), None)
    meaning = f"{method}, which cannot be read yet" if method else "not known here"
    return f"its module holds {strange[0]!r}, which is {meaning}; without it the rest of the module would be wrong."


def _stored_alpha(stored: Stored, leaves: Leaves) -> float | None:
    """Return the alpha that a module's own key holds; None, for the rank, if it has none or 0."""
    key = leaves.get("alpha")
    if key is None:
        return None
    tensor = stored.tensors[key]
    if tensor.numel() != 1:
        raise FormatError(f"{stored.source}: {key!r} has shape {tuple(tensor.shape)}; an alpha is one number.")
    return float(tensor.item()) or None


def _kept(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in metadata.items() if name != "format"}


def _base_model(adapter: Adapter) -> str | None:
    """Return the name of the family that the metadata names or that alone fits, or None."""
    for field in BASE_MODEL_FIELDS:
        said = adapter.metadata.get(field, "").lower().removesuffix("/lora").rpartition("/")[2]
        for name, family in FAMILIES.items():
            if said in (name, *family.base_models):
                return name
    family = looks.family_of(adapter)
    return family.name if family else None


def _whole_model(tensors: Mapping[str, Tensor]) -> str:
    starts = ("model.diffusion_model.", "first_stage_model.", "conv_in.", "down_blocks.")
    if any(key.startswith(starts) for key in tensors):
        return "It looks like a whole model, not an adapter."
    return "Is it an adapter?"
