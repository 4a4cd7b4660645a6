"""``inspect``: the facts of an adapter file, from its header; norms of its changes and hashes if they are wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import isnan, prod
from operator import attrgetter
from pathlib import Path
from typing import Any

from lorica.adapters import Adapter
from lorica.errors import FileError, FormatError, LoRAError, ShapeError
from lorica.formats import FORMATS
from lorica.formats.reading import interpret, recognise
from lorica.formats.storage.files import PICKLED, FileContents, peek, tensors_of
from lorica.formats.storage.folders import adapter_files as files_below
from lorica.formats.storage.sources import PREFERRED, SUFFIXES, Source, locate, with_config
from lorica.formats.storage.unread import Unread
from lorica.models import Target
from lorica.tools.base_model import open_base
from lorica.tools.blocks import Norms, components_of
from lorica.tools.claims import base_of, trainer_of
from lorica.tools.digests import Digests
from lorica.tools.facts import Facts, Fit, FolderFacts
from lorica.tools.hashes import hashes_of, unchecked
from lorica.tools.norms import norms_of
from lorica.tools.training_facts import training_of


def inspect(
    source: Source,
    *,
    model: str | Path | None = None,
    norms: bool = True,
    hashes: bool = True,
    digests: Digests | None = None,
) -> Facts:
    """Facts of an adapter file. No model is built, and without norms and hashes no tensor is read.

    Args:
        source: a file, a folder with one adapter, a Hub id, or a state dict.
        model: a base model (a folder, or the name of a family): also say how well the file fits it.
        norms: measure how large the changes are.
        hashes: compute the hashes of the file and compare them with those that it stores.
        digests: those of its bytes, if they are being computed already.

    Raises:
        FileError: if it cannot be read, or is broken.
        FormatError: if its format is not known.
    """
    stored, path = _open(source)
    target = open_base(model).target if model is not None else None
    if not hashes or path is None or path.suffix.lower() in PICKLED:
        return _facts(stored, path, target, norms=norms)
    with digests or Digests(path) as computed:
        facts = _facts(stored, path, target, norms=norms)
        return replace(facts, hashes=hashes_of(path, stored.metadata, computed))


def inspect_folder(
    folder: Path, *, model: str | Path | None = None, norms: bool = False, hashes: bool = False
) -> FolderFacts:
    """Facts of every adapter file in a folder and the folders below it.

    Args:
        folder: the folder.
        model: a base model that each file is compared with.
        norms: measure how large the changes are; reads every file whole.
        hashes: compute the hashes of the files; reads every file whole.

    Raises:
        FileError: if there is no such folder, or it holds no file that may be an adapter.
    """
    paths = adapter_files(folder)
    if not paths:
        raise FileError(f"there is no adapter in {folder}: no file ending in {', '.join(SUFFIXES)}.")
    files: list[Facts] = []
    broken: dict[str, str] = {}
    for path in paths:
        try:
            files.append(inspect(path, model=model, norms=norms, hashes=hashes))
        except LoRAError as error:  # noqa: PERF203  # one bad file must not hide the others
            broken[str(path)] = str(error)
    return FolderFacts(str(folder), tuple(files), broken)


def adapter_files(folder: Path) -> list[Path]:
    """Files in a folder that may be adapters; none if it is the folder of one adapter, or no folder."""
    folder = folder.expanduser()
    if not folder.is_dir() or any((folder / name).is_file() for name in PREFERRED):
        return []
    return files_below(folder)


def _open(source: Source) -> tuple[FileContents, Path | None]:
    if isinstance(source, Mapping):
        return FileContents("the state dict", tensors_of(source, "the state dict")), None
    path = locate(source)
    return with_config(peek(path)), path


def _facts(stored: FileContents, path: Path | None, target: Target | None, *, norms: bool) -> Facts:
    dialect = recognise(stored, FORMATS)
    read = _read(stored, dialect.name, target)
    adapter, report = read.adapter, read.adapter.report
    layers = [layer for _, _, layer in adapter.layers()]
    measured = _measure(adapter) if norms else {}
    return Facts(
        source=stored.source,
        size=path.stat().st_size if path else None,
        format=dialect.name,
        base=base_of(adapter),
        trainer=trainer_of(stored.tensors, stored.metadata, dialect.name),
        methods=_counted(layer.kind for layer in layers),
        dtypes=_dtypes(stored),
        parameters=sum(map(prod, map(attrgetter("shape"), stored.tensors.values()))),
        ranks=_counted(layer.rank for layer in layers),
        alphas=_counted(layer.alpha for layer in layers),
        components=tuple(components_of(adapter, report.base_model if report else None, measured)),
        embeddings={
            token: {component: tuple(vectors.shape) for component, vectors in parts.items()}
            for token, parts in adapter.embeddings.items()
        },
        unused={left.key: left.reason for left in report.unused} if report else {},
        problem=read.problem or _broken(measured),
        training=training_of(stored.metadata),
        metadata=dict(stored.metadata),
        hashes=unchecked(stored.metadata),
        fit=_fit(stored, dialect.name, target, adapter) if target else None,
    )


@dataclass(frozen=True, slots=True)
class _Interpretation:
    """The adapter that could be read from a file, and the problem with the rest of the file."""

    adapter: Adapter
    problem: str | None = None

    @property
    def unused(self) -> int:
        """Number of keys without a use."""
        return len(self.adapter.report.unused) if self.adapter.report else 0


def _read(stored: FileContents, format_name: str, target: Target | None) -> _Interpretation:
    """Interpretation of the file alone, or with the given model where that explains more of it."""
    alone = _interpret(None, stored, format_name)
    if target is None or not (alone.problem or alone.unused):
        return alone
    return min(alone, _interpret(target, stored, format_name), key=lambda read: (read.problem is not None, read.unused))


def _interpret(target: Target | None, stored: FileContents, format_name: str) -> _Interpretation:
    try:
        return _Interpretation(interpret(stored, FORMATS[format_name], target, strict=False, check_values=False))
    except (FormatError, ShapeError) as error:
        return _Interpretation(Adapter({}, metadata=stored.metadata), str(error))


def _measure(adapter: Adapter) -> Norms:
    places = [(component, path) for component, path, _ in adapter.layers()]
    return dict(zip(places, norms_of(layer for _, _, layer in adapter.layers()), strict=True))


def _broken(norms: Norms) -> str | None:
    bad = [".".join(place) for place, norm in norms.items() if norm is not None and isnan(norm)]
    if not bad:
        return None
    return (
        f"{len(bad)} of its {len(norms)} modules hold values that are NaN or infinite, the first is {bad[0]}; the "
        "training that made it diverged, or the file is broken."
    )


def _fit(stored: FileContents, format_name: str, target: Target, alone: Adapter) -> Fit:
    """Fit of a file to a model: the number of its modules that the model has, and what is wrong with the others."""
    try:
        adapter = interpret(stored, FORMATS[format_name], target, strict=False, check_values=False)
    except LoRAError as error:
        return Fit(target.name, len(alone), 0, {stored.source: str(error)})
    left = adapter.report.unused if adapter.report else ()
    return Fit(target.name, max(len(alone), len(adapter)), len(adapter), {each.key: each.reason for each in left})


def _dtypes(stored: FileContents) -> dict[str, int]:
    """Number of tensors of each dtype."""
    unread = isinstance(next(iter(stored.tensors.values())), Unread)  # all of them are, or none
    counts = _counted(map(attrgetter("stored_dtype" if unread else "dtype"), stored.tensors.values()))
    return {str(dtype).removeprefix("torch."): count for dtype, count in counts.items()}


def _counted(values: Iterable[Any]) -> dict[Any, int]:
    """Number of times that each value occurs, the most frequent first."""
    return dict(Counter(values).most_common())
