"""Kohya's format (sd-scripts, A1111, ComfyUI): flat names, ``lora_unet_conv_in.lora_down.weight``, and ``.alpha``.

A missing alpha, or one of 0, means the rank, as in the scripts that made the format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from lorica.adapters import Adapter, AdapterLayer
from lorica.errors import FormatError
from lorica.formats import looks
from lorica.formats.account import Account
from lorica.formats.dialect import Parsed
from lorica.formats.files import Stored
from lorica.formats.layers import Found
from lorica.formats.names import ONLY_TEXT_ENCODER, PREFIXES, Place, flat_names, flat_table
from lorica.models import FAMILIES, Target
from lorica.models.clip import with_wrapper

NAME = "kohya"
LEAVES = {"lora_down.weight": "down", "lora_up.weight": "up", "lora_mid.weight": "mid", "alpha": "alpha"}
_SUFFIXES = {leaf: suffix for suffix, leaf in LEAVES.items()}
_STARTS = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_transformer_", "lora_prior_")


def recognises(keys: Iterable[str]) -> bool:
    """Tell whether any key starts as flat names do."""
    return any(key.startswith(_STARTS) for key in keys)


def parse(stored: Stored, target: Target | None, account: Account) -> Parsed:
    """Return the meaning of the keys: looked up in the target's table, or in that of the family that fits best."""
    model = target or _best_family(stored)
    table = flat_table(model)
    return Parsed(_found(stored, table, model, account), model, _no_alpha, lambda: list(table))


def compose(adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Return the tensors under flat names.

    Raises:
        FormatError: if the adapter holds what the format cannot: shared flat names, an alpha of 0, embeddings.
    """
    if adapter.embeddings:
        raise FormatError(f"files in {NAME} format are written without embeddings; this adapter has some.")
    known = set(adapter.components) | set(target.components if target else ())
    tensors: dict[str, Tensor] = {}
    for component, layers in adapter.components.items():
        neighbours = target.components.get(component, {}) if target else {}
        prefix = _prefix(component, known)
        flats = flat_names({with_wrapper(path) for path in (*layers, *neighbours)}, prefix)
        flat_of = {path: flat for flat, path in flats.items()}
        for path, layer in layers.items():
            tensors.update(_tensors_of(flat_of[with_wrapper(path)], layer))
    return tensors, {}


def _found(stored: Stored, table: Mapping[str, Place], model: Target, account: Account) -> Iterator[Found]:
    for key in stored.tensors:
        flat, _, leaf = key.partition(".")
        place = table.get(flat)
        if place is None:
            account.leave_stranger(key, flat, f"no module of {model.name} has this flat name.")
        else:
            yield Found(key, *place, LEAVES.get(leaf, leaf))


def _best_family(stored: Stored) -> Target:
    """Return the family that has the most of the file's modules in their sizes."""
    sizes = dict(_sizes(stored.tensors))
    targets = [family.target for family in FAMILIES.values()]
    counts = [_count_fitting(sizes, target) for target in targets]
    if sizes and not max(counts):
        raise FormatError(
            f"{stored.source} has flat (Kohya) names, which only the base model can turn into module paths, and none "
            f"of its {len(sizes)} modules fits {', '.join(target.name for target in targets)}. Pass target= for its "
            "base model, or load it on the live model with attach(model).load(...). "
            f"{looks.sentence(stored.tensors, None)}"
        )
    return targets[counts.index(max(counts))]


def _sizes(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the flat name, the outputs and the inputs of every module that has both halves."""
    for key, up in tensors.items():
        flat, _, leaf = key.partition(".")
        down = tensors.get(f"{flat}.lora_down.weight")
        if leaf == "lora_up.weight" and down is not None and min(up.ndim, down.ndim) > 1:
            yield flat, (up.shape[0], down.shape[1])


def _count_fitting(sizes: Mapping[str, tuple[int, int]], target: Target) -> int:
    table, components = flat_table(target), target.components
    places = ((table.get(flat), size) for flat, size in sizes.items())
    return sum(place is not None and components[place[0]][place[1]][:2] == size for place, size in places)


def _no_alpha(component: str, path: str, rank: int) -> None:
    """Return None: a module without an alpha of its own has its rank for one."""
    del component, path, rank


def _prefix(component: str, components: set[str]) -> str:
    if component == "text_encoder" and "text_encoder_2" not in components:
        return ONLY_TEXT_ENCODER
    if component not in PREFIXES:
        raise FormatError(
            f"the {NAME} format has no name for the component {component!r}. Known: {', '.join(PREFIXES)}. "
            "Use format='diffusers'."
        )
    return PREFIXES[component][0]


def _tensors_of(flat: str, layer: AdapterLayer) -> dict[str, Tensor]:
    strange = [leaf for leaf in layer.tensors if leaf not in _SUFFIXES]
    if strange:
        raise FormatError(f"files in {NAME} format are written without {layer.kind} layers, such as {flat!r}.")
    if layer.alpha == 0:
        raise FormatError(f"{flat!r} has alpha 0, which {NAME} files mean the rank by. Leave the layer out instead.")
    named = {f"{flat}.{_SUFFIXES[leaf]}": tensor for leaf, tensor in layer.tensors.items()}
    return {**named, f"{flat}.alpha": exact_scalar(layer.alpha)}


def exact_scalar(value: float) -> Tensor:
    """Return a number as the smallest floating-point tensor of 32 or 64 bits that holds it exactly."""
    single = torch.tensor(value, dtype=torch.float32)
    return single if single.item() == value else torch.tensor(value, dtype=torch.float64)
