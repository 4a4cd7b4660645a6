"""``convert``: an adapter file in one format becomes one in another, and nothing of it is lost unsaid."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lorica.adapters import Adapter, AdapterLayer
from lorica.adapters.base import ANY
from lorica.dtypes import dtype_named
from lorica.errors import ConfigError, FileError, FormatError, UnknownNameError
from lorica.formats import FORMATS, Source, model_named_by, read, write
from lorica.formats.dialects.control_lora import CONTROL_LORA, no_adapter
from lorica.formats.storage.sources import FILE_NAME
from lorica.models import FAMILIES, Target
from lorica.models.clip import spellings
from lorica.tools.as_lora import Rewritten, rewrite
from lorica.tools.base_model import BaseModel, open_base

OF_ONE_METHOD = ("peft",)  # formats whose files hold layers of one method, that several must share
SHOWN = 8  # layers that a refusal lists
Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class LayerChange:
    """A layer that the format could not hold and that was written as a plain LoRA.

    Args:
        module: component and module path.
        kind: what it was.
        rank: the rank that it was written with.
        exact: whether by exact factors; an approximation if not.
        error: ``|delta - delta as written| / |delta|``, Frobenius.
    """

    module: str
    kind: str
    rank: int
    exact: bool
    error: float


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was converted.

    Args:
        source: the file that was read.
        path: the file that was written.
        format: the format that it was in.
        to: the format that it is in.
        base_model: the family that it is for, if it is known.
        modules: how many modules it changes.
        size: the length of the new file in bytes.
        dtype: the dtype that all tensors were cast to; None if each kept its own.
        changed: the layers that became plain LoRAs.
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

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain dictionaries and lists, for JSON."""
        return {**asdict(self), "path": str(self.path)}


def convert(
    source: Source,
    destination: str | Path,
    *,
    to: str,
    approximate: int | None = None,
    dtype: str | None = None,
    model: str | Path | None = None,
) -> Conversion:
    """Write the adapter of a source in another format, whole or not at all, and return what was done.

    Layers that the format cannot hold become plain LoRAs where that is exact. The new file is read back and compared
    bit for bit before it takes its place. A file in Kohya's format gets the hashes of its own content.

    Args:
        source: a file, a folder with one adapter, a Hub id, or a state dict.
        destination: a ``.safetensors`` file, or a folder for ``pytorch_lora_weights.safetensors``.
        to: the name of the format.
        approximate: a rank: layers that the format cannot hold, and that are no LoRA of this rank, are approximated.
        dtype: ``float32``, ``float16`` or ``bfloat16`` for all tensors; each keeps its own if it is left out.
        model: the base model, a folder or the name of a family. Names that only the model can explain are found in it,
            and changes that depend on the base weight (DoRA, GLoRA, OFT, IA3) are computed from it.

    Raises:
        UnknownNameError: if there is no such format or dtype.
        FormatError: if the source cannot be read, or the format cannot hold its content.
        FileError: if a file cannot be read or written.
    """
    file = _file_for(destination)
    _check(source, file, to, approximate, dtype)
    base = open_base(model) if model is not None else None
    original = read(source, target=base.target if base else None)
    if original.report and original.report.format == CONTROL_LORA.name:
        raise no_adapter(original.report.source, to)
    target = base.target if base else _target_of(original, to)
    cast = dtype_named(dtype)
    adapter = _cast(original, cast) if cast else original
    held, changed = _made_to_fit(adapter, to, target, _Rewriting(base, target, approximate, dtype))
    path = _write(held, file, to, target)
    report = original.report
    return Conversion(
        source=report.source if report else "the state dict",
        path=path,
        format=report.format if report else to,
        to=to,
        base_model=report.base_model if report else None,
        modules=len(held),
        size=path.stat().st_size,
        dtype=dtype,
        changed=changed,
    )


@dataclass(frozen=True, slots=True)
class _Rewriting:
    """What is needed to write a layer as a LoRA."""

    base: BaseModel | None
    target: Target
    rank: int | None
    dtype: str | None

    def apply(self, component: str, path: str, layer: AdapterLayer) -> Rewritten | str:
        """Return the layer as a LoRA, or the reason why it cannot be one."""
        shapes = self.target.components.get(component, {})
        shape = next((shapes[spelling] for spelling in spellings(path) if spelling in shapes), layer.weight_shape)
        if ANY in shape:
            return "its tensors do not say the shape of the weight. Name the base model: model= (--model)."
        base = partial(self.base.weight, component, path) if self.base else None
        return rewrite(layer, shape, rank=self.rank, dtype=dtype_named(self.dtype), base=base)


def _check(source: Source, destination: Path, to: str, approximate: int | None, dtype: str | None) -> None:
    if to not in FORMATS:
        raise UnknownNameError.choose("format", to, FORMATS)
    dtype_named(dtype)  # refuses a name that there is not
    if approximate is not None and approximate < 1:
        raise ConfigError(f"the rank of an approximation must be at least 1, got {approximate}.")
    if not isinstance(source, Mapping):
        given = Path(source).expanduser()
        if given.exists() and destination.exists() and given.samefile(destination):
            raise FileError(f"{given} would be written over itself. Name another file; the original is kept.")


def _target_of(adapter: Adapter, to: str) -> Target:
    """Return the base model that an adapter is for, or if it is not known, a model of just the adapter's modules.

    Raises:
        FormatError: if it may be for several whose modules the format names differently.
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
    """Return the adapter in another dtype.

    Raises:
        FormatError: if a number is too large for it.
    """
    cast = adapter.map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
    for component, path, layer in cast.layers():
        for leaf, tensor in layer.tensors.items():
            if not tensor.isfinite().all():
                raise FormatError(f"the {leaf} of {component}.{path} holds numbers that are too large for {dtype}.")
    return cast


def _made_to_fit(
    adapter: Adapter, to: str, target: Target, rewriting: _Rewriting
) -> tuple[Adapter, tuple[LayerChange, ...]]:
    """Return the adapter as the format can hold it, and the layers that had to become LoRAs for that.

    Raises:
        FormatError: listing what cannot be held.
    """
    try:
        FORMATS[to].compose(adapter, target)
    except FormatError as error:
        refusal = error
    else:
        return adapter, ()
    whole = replace(adapter, embeddings={})
    refused = list(_refused(whole, to, target))
    tries = [refused] if refused else []
    if to in OF_ONE_METHOD and len(adapter.components) == 1:  # what it holds alone it may not hold beside others
        tries.append([(component, path) for component, path, layer in whole.layers() if layer.kind != "lora"])
    for places in tries:
        held, changes = _rewritten(adapter, to, places, rewriting)
        try:
            FORMATS[to].compose(held, target)
        except FormatError as error:
            refusal = error
        else:
            return held, changes
    raise refusal


def _rewritten(
    adapter: Adapter, to: str, places: Sequence[Place], rewriting: _Rewriting
) -> tuple[Adapter, tuple[LayerChange, ...]]:
    """Return the adapter with some layers as LoRAs, and what became of them.

    Raises:
        FormatError: listing those that cannot be LoRAs.
    """
    results = {place: rewriting.apply(*place, adapter.components[place[0]][place[1]]) for place in places}
    reasons = {place: result for place, result in results.items() if isinstance(result, str)}
    if reasons:
        raise _refusal(to, reasons, len(places))
    loras = {place: result for place, result in results.items() if isinstance(result, Rewritten)}
    parts = {
        name: {path: loras[name, path].layer if (name, path) in loras else layer for path, layer in layers.items()}
        for name, layers in adapter.components.items()
    }
    return replace(adapter, components=parts), tuple(_changes(adapter, loras))


def _refused(adapter: Adapter, to: str, target: Target) -> Iterator[Place]:
    """Yield the layers that the format cannot hold and that are not plain LoRAs already."""
    for component, path, layer in adapter.layers():
        if layer.kind == "lora":
            continue
        try:
            FORMATS[to].compose(Adapter({component: {path: layer}}), target)
        except FormatError:
            yield component, path


def _refusal(to: str, reasons: Mapping[Place, str], refused: int) -> FormatError:
    """Return the error that lists what the format cannot hold, and why it cannot be a LoRA either."""
    lines = [f"{'.'.join(place)}: {reason}" for place, reason in list(reasons.items())[:SHOWN]]
    if len(reasons) > SHOWN:
        lines.append(f"and {len(reasons) - SHOWN} more")
    shown = "\n  ".join(lines)
    return FormatError(
        f"the {to} format cannot hold {refused} of the layers as they are, and {len(reasons)} of these cannot "
        f"become plain LoRAs, so nothing was written.\n  {shown}"
    )


def _changes(adapter: Adapter, loras: Mapping[Place, Rewritten]) -> Iterator[LayerChange]:
    for (component, path), result in loras.items():
        kind = adapter.components[component][path].kind
        yield LayerChange(f"{component}.{path}", kind, result.layer.rank, result.exact, result.error)


def _write(adapter: Adapter, destination: Path, to: str, target: Target) -> Path:
    """Write under a name of no meaning, read back, compare, and only then put the file in its place.

    Raises:
        FileError: if the file cannot be written.
        FormatError: if what is read back is not what was written.
    """
    waiting = destination.with_name(f".{destination.stem}.{secrets.token_hex(4)}.safetensors")
    try:
        if read(write(adapter, waiting, format=to, target=target), target=target) != adapter:
            raise FormatError(
                f"what was written in {to} format is not read back bit for bit, so {destination} was not made."
            )
        waiting.replace(destination)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"cannot write {destination}: {error.strerror or error}. Nothing was changed there.") from error
    finally:
        waiting.unlink(missing_ok=True)
    return destination


def _file_for(destination: str | Path) -> Path:
    path = Path(destination).expanduser()
    if path.is_dir() or not path.suffix:
        return path / FILE_NAME
    if path.suffix != ".safetensors":
        raise FileError(f"adapters are written as .safetensors, not {path.suffix}: {path}.")
    return path
