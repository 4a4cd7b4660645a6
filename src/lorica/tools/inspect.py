"""``inspect``: what an adapter file is, from its header; how much it changes, and its hashes, if they are wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import hypot, isnan, prod
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorica.adapters import Adapter
from lorica.errors import FormatError, LoRAError, ShapeError
from lorica.formats import FORMATS
from lorica.formats.reading import interpret, recognise
from lorica.formats.storage.files import PICKLED, FileContents, peek, tensors_of
from lorica.formats.storage.sources import Source, locate, with_config
from lorica.formats.storage.unread import Unread
from lorica.models import FAMILIES, Target
from lorica.tools.base_claim import base_of
from lorica.tools.base_model import open_base
from lorica.tools.digests import Digests
from lorica.tools.facts import Block, Component, Facts, Fit, Hash
from lorica.tools.hashes import hashes_of, unchecked
from lorica.tools.norms import norms_of
from lorica.tools.places import block_of, in_order, part_of
from lorica.tools.trainer import trainer_of
from lorica.tools.training_facts import training_of

if TYPE_CHECKING:
    pass

Norms = Mapping[tuple[str, str], float | None]


def inspect(
    source: Source,
    *,
    model: str | Path | None = None,
    norms: bool = True,
    hashes: bool = True,
    digests: Digests | None = None,
) -> Facts:
    """Return what an adapter file is. No model is built, and without norms and hashes no tensor is read.

    Args:
        source: a file, a folder with one adapter, a Hub id, or a state dict.
        model: a base model (a folder, or the name of a family): also say how well the file fits it.
        norms: measure how large the changes are.
        hashes: compute the hashes of the file and hold them against those that it carries.
        digests: those of its bytes, if they are being computed already.

    Raises:
        FileError: if it cannot be read, or is broken.
        FormatError: if it is in no format that is known here.
    """
    stored, path = _open(source)
    target = open_base(model).target if model is not None else None
    if not hashes or path is None or path.suffix.lower() in PICKLED:
        return _facts(stored, path, target, norms=norms)
    with digests or Digests(path) as computed:
        facts = _facts(stored, path, target, norms=norms)
        return replace(facts, hashes=hashes_of(path, stored.metadata, computed))


def _open(source: Source) -> tuple[FileContents, Path | None]:
    if isinstance(source, Mapping):
        return FileContents("the state dict", tensors_of(source, "the state dict")), None
    path = locate(source)
    return with_config(peek(path)), path


def _facts(stored: FileContents, path: Path | None, target: Target | None, *, norms: bool) -> Facts:
    dialect = recognise(stored, FORMATS)
    read = _read(stored, dialect.name, target)
    layers = [layer for _, _, layer in read.adapter.layers()]
    measured = _measure(read.adapter) if norms else {}
    report = read.adapter.report
    named = report.base_model if report else None
    return Facts(
        source=stored.source,
        size=path.stat().st_size if path else None,
        format=dialect.name,
        base=base_of(read.adapter),
        trainer=trainer_of(stored.tensors, stored.metadata, dialect.name),
        methods=_counted(layer.kind for layer in layers),
        dtypes=_dtypes(stored),
        parameters=sum(map(prod, map(attrgetter("shape"), stored.tensors.values()))),
        ranks=_counted(layer.rank for layer in layers),
        alphas=_counted(layer.alpha for layer in layers),
        components=tuple(_components(read.adapter, named, measured)),
        embeddings=_embeddings(read.adapter),
        unused={left.key: left.reason for left in report.unused} if report else {},
        problem=read.problem or _broken(measured),
        training=training_of(stored.metadata),
        metadata=dict(stored.metadata),
        hashes=_stored_hashes(stored),
        fit=_fit(stored, dialect.name, target, read.adapter) if target else None,
    )


@dataclass(frozen=True, slots=True)
class _Read:
    """What could be read of a file, and what stood in the way of reading all of it."""

    adapter: Adapter
    problem: str | None = None

    @property
    def left(self) -> int:
        """How many keys have no use."""
        return len(self.adapter.report.unused) if self.adapter.report else 0


def _read(stored: FileContents, format_name: str, target: Target | None) -> _Read:
    """Return the adapter as the file alone tells it, or as the model that was named helps to read more of it."""
    alone = _read_for(None, stored, format_name)
    if target is None or not (alone.problem or alone.left):
        return alone
    return min(alone, _read_for(target, stored, format_name), key=lambda read: (read.problem is not None, read.left))


def _read_for(target: Target | None, stored: FileContents, format_name: str) -> _Read:
    try:
        return _Read(interpret(stored, FORMATS[format_name], target, strict=False, check_values=False))
    except (FormatError, ShapeError) as error:
        return _Read(Adapter({}, metadata=stored.metadata), str(error))


def _measure(adapter: Adapter) -> Norms:
    places = [(component, path) for component, path, _ in adapter.layers()]
    return dict(zip(places, norms_of(layer for _, _, layer in adapter.layers()), strict=True))


def _components(adapter: Adapter, named: str | None, norms: Norms) -> Iterator[Component]:
    for name, layers in sorted(adapter.components.items(), key=_place_of_component):
        order = FAMILIES[named].block_order.get(name, ()) if named else ()
        known = frozenset(order)
        homes: dict[str, list[float | None]] = {}
        for path in layers:
            homes.setdefault(block_of(path, known), []).append(norms.get((name, path)))
        blocks = [_block(block, homes[block]) for block in in_order(homes, order)]
        lengths = [norms[name, path] for path in layers if (name, path) in norms]
        yield Component(
            name=name,
            modules=len(layers),
            parts=_counted(part_of(path) for path in layers),
            blocks=tuple(blocks),
            norm=_together(lengths),
            unmeasured=sum(length is None for length in lengths),
        )


def _place_of_component(part: tuple[str, Any]) -> tuple[bool, str]:
    """Return a key that puts the networks that draw before those that read."""
    return part[0].startswith("text_encoder"), part[0]


def _block(name: str, norms: list[float | None]) -> Block:
    return Block(name, len(norms), _together(norms))


def _together(norms: list[float | None]) -> float | None:
    """Return the length of changes whose lengths are given; None if none was measured."""
    measured = [norm for norm in norms if norm is not None]
    return hypot(*measured) if measured else None


def _broken(norms: Norms) -> str | None:
    bad = [".".join(place) for place, norm in norms.items() if norm is not None and isnan(norm)]
    if not bad:
        return None
    return (
        f"{len(bad)} of its {len(norms)} modules hold values that are NaN or infinite, the first is {bad[0]}; the "
        "training that made it diverged, or the file is broken."
    )


def _fit(stored: FileContents, format_name: str, target: Target, alone: Adapter) -> Fit:
    """Return how well a file fits a model: which of its modules the model has, and what is wrong with the others."""
    try:
        adapter = interpret(stored, FORMATS[format_name], target, strict=False, check_values=False)
    except LoRAError as error:
        return Fit(target.name, len(alone), 0, {stored.source: str(error)})
    left = adapter.report.unused if adapter.report else ()
    return Fit(target.name, max(len(alone), len(adapter)), len(adapter), {each.key: each.reason for each in left})


def _embeddings(adapter: Adapter) -> dict[str, dict[str, tuple[int, ...]]]:
    return {
        token: {component: tuple(vectors.shape) for component, vectors in parts.items()}
        for token, parts in adapter.embeddings.items()
    }


def _stored_hashes(stored: FileContents) -> tuple[Hash, ...]:
    return unchecked(stored.metadata)


def _dtypes(stored: FileContents) -> dict[str, int]:
    """Return how many tensors are of each dtype: all of them are unread, or none."""
    unread = isinstance(next(iter(stored.tensors.values())), Unread)
    counts = _counted(map(attrgetter("stored_dtype" if unread else "dtype"), stored.tensors.values()))
    return {str(dtype).removeprefix("torch."): count for dtype, count in counts.items()}


def _counted(values: Iterable[Any]) -> dict[Any, int]:
    """Return how often each value occurs, the most frequent first."""
    return dict(Counter(values).most_common())
