"""Flat names, made from a model's own module paths and looked up: never parsed.

Kohya's scripts write every dot of a path as an underscore, which no rule can undo: ``to_out_0`` may be ``to.out.0`` or
``to_out.0``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from lorica.errors import FormatError
from lorica.models.clip import spellings
from lorica.models.original import original_names
from lorica.models.target import Target

Place = tuple[str, str]  # component, module path

# Component to the prefixes of its flat names: all are read, and the first is the one that is written.
PREFIXES: dict[str, tuple[str, ...]] = {
    "unet": ("lora_unet",),
    "text_encoder": ("lora_te1", "lora_te"),
    "text_encoder_2": ("lora_te2",),
    "text_encoder_3": ("lora_te3",),
    "transformer": ("lora_transformer", "lora_unet"),
    "prior": ("lora_prior_unet",),
}
BARE_MODULE = "model"  # the component of a module that is no known part of a pipeline: it takes the names of any
ONLY_TEXT_ENCODER = "lora_te"  # the prefix that is written when a model has one text encoder


def flat_name(path: str, prefix: str) -> str:
    """Return the flat name of a module: ``lora_unet_mid_block_resnets_0_conv1``."""
    return f"{prefix}_{path.replace('.', '_')}"


def flat_names(paths: Iterable[str], prefix: str) -> dict[str, str]:
    """Map each flat name to the path that it stands for.

    Raises:
        FormatError: if two paths share a flat name, naming both.
    """
    table: dict[str, str] = {}
    for path in paths:
        flat = flat_name(path, prefix)
        if table.setdefault(flat, path) != path:
            raise FormatError(
                f"the modules {table[flat]!r} and {path!r} share the flat name {flat!r}, so a file with flat (Kohya) "
                "names cannot tell them apart. Use format='diffusers'."
            )
    return table


def flat_table(target: Target) -> Mapping[str, Place]:
    """Map every flat name that files use for the modules of a model to the component and path it stands for.

    Raises:
        FormatError: if two modules share a flat name, naming both.
    """
    return _table(tuple((component, tuple(shapes)) for component, shapes in target.components.items()))


@lru_cache(maxsize=8)  # a live model's target is made anew for every load, with the same paths
def _table(components: tuple[tuple[str, tuple[str, ...]], ...]) -> Mapping[str, Place]:
    table: dict[str, Place] = {}
    for component, paths in components:
        real = {spelling: path for path in paths for spelling in spellings(path)}
        real.update({original: path for path, original in original_names(set(paths)).items()})
        for prefix in _prefixes(component):
            table.update({flat: (component, real[path]) for flat, path in flat_names(real, prefix).items()})
    return table


def _prefixes(component: str) -> tuple[str, ...]:
    if component == BARE_MODULE:
        return tuple(prefix for prefixes in PREFIXES.values() for prefix in prefixes)
    return PREFIXES.get(component, (f"lora_{component}",))
