"""``convert``: an adapter file in one format to one in another, with a report of everything that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lorica.adapters import Adapter, AdapterLayer
from lorica.adapters.base import ANY
from lorica.atomic import atomic_write
from lorica.dtypes import dtype_named
from lorica.errors import ConfigError, FileError, FormatError, UnknownNameError
from lorica.formats import FORMATS, Source, model_named_by, read, write
from lorica.formats.dialects.control_lora import CONTROL_LORA, no_adapter
from lorica.formats.reading import BASE_MODEL_FIELDS
from lorica.formats.storage.sources import FILE_NAME
from lorica.models import FAMILIES, Target
from lorica.models.clip import spellings
from lorica.models.detect import detect
from lorica.tools.as_lora import Rewritten, rewrite
from lorica.tools.base_model import BaseModel, open_base
from lorica.tools.inspect import inspect

OF_ONE_METHOD = ("peft",)  # formats whose files hold layers of one method with common settings
ARCHITECTURE = BASE_MODEL_FIELDS[0]  # of the metadata: what its readers ask first
SHOWN = 8  # layers that a refusal lists
ModuleKey = tuple[str, str]  # component and module path


@dataclass(frozen=True, slots=True)
class LayerChange:
    """A layer that the format could not hold and that was written as a plain LoRA.

    Args:
        module: component and module path.
        kind: the method that it was.
        rank: the rank of the LoRA.
        exact: whether its factors are exact; otherwise it is an approximation.
        error: ``|delta - delta as written| / |delta|``, Frobenius.
    """

    module: str
    kind: str
    rank: int
    exact: bool
    error: float


@dataclass(frozen=True, slots=True)
class Conversion:
    """Result of a conversion.

    Args:
        source: the file that was read.
        path: the file that was written.
        format: the format of the source.
        to: the format of the new file.
        base_model: the family that it is for, if it is known.
        modules: number of modules that it changes.
        size: the length of the new file in bytes.
        dtype: the dtype that all tensors were cast to; None if each kept its own.
        changed: the layers that became plain LoRAs.
        left_out: keys of the source that are not in the new file, each with the reason.
    """

    source: str
    path: Path
    format: str
    to: str
    base_model: str | None
    modules: int
    size: int
    dtype: str | None = None
    changed: tuple[LayerChange, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain dictionaries and lists, for JSON."""
        return {**asdict(self), "path": str(self.path)}


def convert(
    source: Source,
    destination: str | Path,
    *,
    to: str,
    approximate: int | None = None,
    dtype: str | None = None,
    model: str | Path | None = None,
    strict: bool = True,
) -> Conversion:
    """Write the adapter of a source in another format, whole or not at all.

    Layers that the format cannot hold become plain LoRAs where that is exact. The new file is read back and compared
    bit for bit before it takes its place. A file in Kohya's format gets the hashes of its own content.

    Args:
        source: a file, a folder with one adapter, a Hub id, or a state dict.
        destination: a ``.safetensors`` file, or a folder for ``pytorch_lora_weights.safetensors``.
        to: the name of the format.
        approximate: a rank: layers that the format cannot hold, and that are no LoRA of this rank, are approximated.
        dtype: ``float32``, ``float16`` or ``bfloat16`` for all tensors; by default each keeps its own.
        model: the base model, a folder or the name of a family. Names that only the model can explain are found in it,
            and changes that depend on the base weight (DoRA, GLoRA, OFT, IA3) are computed from it.
        strict: refuse a source with keys that have no use; otherwise they are left out, and listed.

    Raises:
        UnknownNameError: if there is no such format or dtype.
        FormatError: if the source cannot be read, or the format cannot hold its content.
        FileError: if a file cannot be read or written.
    """
    file = _file_for(destination)
    _check(source, file, to, approximate, dtype)
    base = open_base(model) if model is not None else None
    original = read(source, target=base.target if base else None, strict=strict)
    report = original.report
    if report and report.format == CONTROL_LORA.name:
        raise no_adapter(report.source, to)
    target = base.target if base else _target_of(original, to)
    cast = dtype_named(dtype)
    held, changed = _LoraFallback(to, target, base, approximate, cast).fit(_cast(original, cast) if cast else original)
    family = _family_of(model, base) or (report.base_model if report else None)
    path = _write(held, file, to, target, family)
    return Conversion(
        source=report.source if report else "the state dict",
        path=path,
        format=report.format if report else to,
        to=to,
        base_model=family,
        modules=len(held),
        size=path.stat().st_size,
        dtype=dtype,
        changed=changed,
        left_out={left.key: left.reason for left in report.unused} if report else {},
    )


def _check(source: Source, destination: Path, to: str, approximate: int | None, dtype: str | None) -> None:
    if to not in FORMATS:
        raise UnknownNameError.choose("format", to, FORMATS)
    dtype_named(dtype)  # refuses an unknown name
    if approximate is not None and approximate < 1:
        raise ConfigError(f"the rank of an approximation must be at least 1, got {approximate}.")
    if not isinstance(source, Mapping):
        given = Path(source).expanduser()
        if given.exists() and destination.exists() and given.samefile(destination):
            raise FileError(f"{given} would be written over itself. Name another file; the original is kept.")


def _family_of(model: str | Path | None, base: BaseModel | None) -> str | None:
    """Family of the base model that was named: by its name, or as the one family that its modules fit."""
    if base is None or str(model) in FAMILIES:
        return None if base is None else str(model)
    candidates = [candidate for candidate in detect(base.target.components) if candidate.fits]
    return candidates[0].family if len(candidates) == 1 else None


def _target_of(adapter: Adapter, to: str) -> Target:
    """Base model of an adapter, or if it is not known, a model of just the adapter's modules.

    Raises:
        FormatError: if it may be for several models whose modules the format names differently.
    """
    named = adapter.report.base_model if adapter.report else None
    if named and all(_has(FAMILIES[named].target, *module) for module in adapter.layers()):
        return FAMILIES[named].target
    known = model_named_by(adapter, to)
    if known is not None:
        return known
    own = {
        component: {path: layer.weight_shape for path, layer in layers.items()}
        for component, layers in adapter.components.items()
    }
    return Target("the model that the file is for", own)


def _has(target: Target, component: str, path: str, layer: AdapterLayer) -> bool:
    shapes = target.components.get(component, {})
    return any(layer.fits(shapes[spelling]) for spelling in spellings(path) if spelling in shapes)


def _cast(adapter: Adapter, dtype: torch.dtype) -> Adapter:
    """Adapter in another dtype.

    Raises:
        FormatError: if a number is too large for it.
    """
    cast = adapter.map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
    for component, path, layer in cast.layers():
        for leaf, tensor in layer.tensors.items():
            if not tensor.isfinite().all():
                raise FormatError(f"the {leaf} of {component}.{path} holds numbers that are too large for {dtype}.")
    return cast


@dataclass(frozen=True, slots=True)
class _LoraFallback:
    """The way to make an adapter fit a format: layers that the format cannot hold become plain LoRAs."""

    to: str
    target: Target
    base: BaseModel | None
    rank: int | None
    dtype: torch.dtype | None

    def fit(self, adapter: Adapter) -> tuple[Adapter, tuple[LayerChange, ...]]:
        """The adapter as the format can hold it, and the layers that had to become LoRAs for that.

        Raises:
            FormatError: listing what cannot be held.
        """
        refusal = self._refusal(adapter)
        if refusal is None:
            return adapter, ()
        others = [(component, path) for component, path, layer in adapter.layers() if layer.kind != "lora"]
        refused = [(c, p) for c, p in others if self._refusal(Adapter({c: {p: adapter.components[c][p]}}))]
        attempts = [refused] if refused else []
        if self.to in OF_ONE_METHOD and len(adapter.components) == 1:  # what it holds alone it may not hold together
            attempts.append(others)
        for keys in attempts:
            held, changes = self._with_loras(adapter, keys)
            remaining = self._refusal(held)
            if remaining is None:
                return held, changes
            refusal = remaining
        raise refusal

    def _refusal(self, adapter: Adapter) -> FormatError | None:
        """Error of the format about an adapter, or None if it can hold it."""
        try:
            FORMATS[self.to].compose(adapter, self.target)
        except FormatError as error:
            return error
        return None

    def _with_loras(self, adapter: Adapter, keys: Sequence[ModuleKey]) -> tuple[Adapter, tuple[LayerChange, ...]]:
        """The adapter with some layers as LoRAs.

        Raises:
            FormatError: listing those that cannot be LoRAs.
        """
        results = {key: self._as_lora(*key, adapter.components[key[0]][key[1]]) for key in keys}
        reasons = {key: result for key, result in results.items() if isinstance(result, str)}
        if reasons:
            lines = [f"{'.'.join(key)}: {reason}" for key, reason in list(reasons.items())[:SHOWN]]
            lines += [f"and {len(reasons) - SHOWN} more"] if len(reasons) > SHOWN else []
            shown = "\n  ".join(lines)
            raise FormatError(
                f"the {self.to} format cannot hold {len(keys)} of the layers as they are, and {len(reasons)} of these "
                f"cannot become plain LoRAs, so nothing was written.\n  {shown}"
            )
        loras = {key: result for key, result in results.items() if isinstance(result, Rewritten)}
        parts = {
            name: {path: loras[name, path].layer if (name, path) in loras else layer for path, layer in layers.items()}
            for name, layers in adapter.components.items()
        }
        changes = (
            LayerChange(f"{c}.{p}", adapter.components[c][p].kind, lora.layer.rank, lora.exact, lora.error)
            for (c, p), lora in loras.items()
        )
        return replace(adapter, components=parts), tuple(changes)

    def _as_lora(self, component: str, path: str, layer: AdapterLayer) -> Rewritten | str:
        """The layer as a LoRA, or the reason why it cannot be one."""
        shapes = self.target.components.get(component, {})
        shape = next((shapes[spelling] for spelling in spellings(path) if spelling in shapes), layer.weight_shape)
        if ANY in shape:
            return "its tensors do not say the shape of the weight. Name the base model: model= (--model)."
        base = partial(self.base.weight, component, path) if self.base else None
        return rewrite(layer, shape, rank=self.rank, dtype=self.dtype, base=base)


def _write(adapter: Adapter, destination: Path, to: str, target: Target, family: str | None) -> Path:
    """Write under a temporary name, read back, compare, and only then move the file to its place.

    Where the new file would not be known as one for the base model, whose names in one format may tell less than in
    another, its metadata say so.

    Raises:
        FileError: if the file cannot be written.
        FormatError: if what is read back is not what was written.
    """
    with atomic_write(destination, suffix=".safetensors") as waiting:
        write(adapter, waiting, format=to, target=target)
        if family and inspect(waiting, norms=False, hashes=False).base.name != family:
            named = {ARCHITECTURE: f"{FAMILIES[family].base_models[0]}/lora"}
            write(adapter, waiting, format=to, target=target, metadata=named)
        if read(waiting, target=target) != adapter:
            raise FormatError(
                f"what was written in {to} format is not read back bit for bit, so {destination} was not made."
            )
    return destination


def _file_for(destination: str | Path) -> Path:
    path = Path(destination).expanduser()
    if path.is_dir() or not path.suffix:
        return path / FILE_NAME
    if path.suffix != ".safetensors":
        raise FileError(f"adapters are written as .safetensors, not {path.suffix}: {path}.")
    return path
