"""Adapter files, one dialect a module: recognise, read, write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lorica.adapters import Adapter
from lorica.errors import FileError, FormatError, ModelError, UnknownNameError
from lorica.formats.dialects.bfl_control import BFL_CONTROL
from lorica.formats.dialects.cloneofsimo import CLONEOFSIMO
from lorica.formats.dialects.comfyui import COMFYUI
from lorica.formats.dialects.control_lora import CONTROL_LORA
from lorica.formats.dialects.dialect import Dialect
from lorica.formats.dialects.diffusers import DIFFUSERS
from lorica.formats.dialects.hcp import HCP
from lorica.formats.dialects.kohya import KOHYA
from lorica.formats.dialects.lycoris import LYCORIS
from lorica.formats.dialects.omi import OMI
from lorica.formats.dialects.onetrainer import ONETRAINER, ONETRAINER_METADATA
from lorica.formats.dialects.peft import PEFT
from lorica.formats.dialects.uso import USO
from lorica.formats.dialects.wan_fun import WAN_FUN
from lorica.formats.dialects.xlabs import XLABS
from lorica.formats.peft_config import ALPHA_ALONE, CONFIG_FILE, METADATA_KEY
from lorica.formats.reading import interpret, recognise
from lorica.formats.storage.files import save, save_text
from lorica.formats.storage.hashes import LEGACY_HASH, MODEL_HASH, OWN_HASHES
from lorica.formats.storage.sources import FILE_NAME, PEFT_FILE, Source, local_path, open_source
from lorica.formats.unit_scaling import ALPHAS
from lorica.models import Target
from lorica.models.clip import spellings

FORMATS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        DIFFUSERS, KOHYA, PEFT, COMFYUI, LYCORIS, ONETRAINER, OMI, WAN_FUN, XLABS, USO, BFL_CONTROL, CONTROL_LORA, HCP,
        CLONEOFSIMO,
    )
}  # fmt: skip

# Metadata that is true of the tensors of one file only, and not written with others.
HASHES = (MODEL_HASH, LEGACY_HASH, "modelspec.hash_sha256")
# What says how the tensors of one file are named and scaled.
OF_ONE_FORMAT = (METADATA_KEY, CONFIG_FILE, ALPHAS, *ALPHA_ALONE, *ONETRAINER_METADATA)

__all__ = ["FORMATS", "Dialect", "Source", "model_named_by", "read", "write"]


def read(source: Source, *, target: Target | None = None, strict: bool = True) -> Adapter:
    """The adapter that a source holds; ``adapter.report`` says what became of every key.

    Tensors are exactly those of the file, memory-mapped. Module paths are the target's own; without a target, those
    that files carry (a CLIP text encoder's begin with ``text_model.``).

    Args:
        source: a file, a folder with one adapter, ``user/repo`` or ``user/repo/file`` on the Hub, or a state dict.
        target: the model that it is for. Without one, flat (Kohya) names are looked up in every family known.
        strict: refuse a file with keys that have no use.

    Raises:
        FileError: if it cannot be read, or is broken.
        FormatError: if the format is not recognised, a value is NaN or infinite or, when strict, a key has no use.
        ShapeError: if the tensors of a module do not fit each other.
    """
    contents = open_source(source)
    return interpret(contents, recognise(contents, FORMATS), target, strict=strict)


def write(
    adapter: Adapter,
    path: str | Path,
    *,
    format: str = "diffusers",  # noqa: A002  # the word that users know
    target: Target | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write an adapter to a file, whole or not at all, and return its path.

    Args:
        adapter: what to write.
        path: a ``.safetensors`` file, or a folder for ``pytorch_lora_weights.safetensors`` (in PEFT's format for
            ``adapter_model.safetensors`` and ``adapter_config.json``).
        format: a name in ``FORMATS``. Files of diffusers have their alphas in the tensors, as not every program looks
            for them elsewhere; they are read back as they were.
        target: the model that it is for; the adapter is checked against it.
        metadata: texts to add to the adapter's own, of which hashes are left out: a file in Kohya's format gets those
            of its own content.

    Raises:
        UnknownNameError: if there is no such format.
        FormatError: if the format cannot hold the adapter.
        ModelError: if the adapter does not fit the target.
        FileError: if the file cannot be written.
    """
    if format not in FORMATS:
        raise UnknownNameError.choose("format", format, FORMATS)
    if not len(adapter):
        raise FormatError("the adapter has no layers; there is nothing to write.")
    if target is not None:
        _check_fits(adapter, target)
    place = _file_for(local_path(path), PEFT_FILE if format == PEFT.name else FILE_NAME)
    tensors, needed = FORMATS[format].compose(adapter, target)
    own = {name: value for name, value in adapter.metadata.items() if name not in (*OF_ONE_FORMAT, *HASHES)}
    texts = _texts({**own, **(metadata or {}), **needed, "format": "pt"})
    save(tensors, place, texts, OWN_HASHES if format == KOHYA.name else None)
    if CONFIG_FILE in needed and place.name == PEFT_FILE:
        save_text(needed[CONFIG_FILE], place.with_name(CONFIG_FILE))
    return place


def model_named_by(adapter: Adapter, format: str) -> Target | None:  # noqa: A002  # the word that users know
    """The model whose names a file in a format gets, if the adapter alone is asked; None if any will do.

    Raises:
        FormatError: if it may be for several models whose modules the format names differently.
    """
    return FORMATS[format].model_for(adapter, None)


def _file_for(path: Path, usual: str) -> Path:
    if path.suffix == ".safetensors" and not path.is_dir():
        return path
    if path.is_dir() or not path.suffix:
        return path / usual
    raise FileError(f"adapters are written as .safetensors, not {path.suffix}: {path}.")


def _texts(metadata: Mapping[str, object]) -> dict[str, str]:
    for name, value in metadata.items():
        if not isinstance(value, str):
            raise FormatError(f"the metadata {name!r} is a {type(value).__name__}; a safetensors file holds texts.")
    return {name: str(value) for name, value in metadata.items()}


def _check_fits(adapter: Adapter, target: Target) -> None:
    for component, path, layer in adapter.layers():
        shapes = target.components.get(component, {})
        shape = next((shapes[spelling] for spelling in spellings(path) if spelling in shapes), None)
        if shape is None:
            raise ModelError(f"{target.name} has no module {component}.{path}, which the adapter changes.")
        if not layer.fits(shape):
            raise ModelError(
                f"{component}.{path}: the adapter changes a weight of shape {layer.weight_shape}, but {target.name} "
                f"has {shape} there."
            )
