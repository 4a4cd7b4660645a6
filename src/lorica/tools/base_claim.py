"""Which base model a file is for, with all that speaks for it and against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from lorica.adapters import Adapter
from lorica.formats import looks
from lorica.formats.reading import BASE_MODEL_FIELDS
from lorica.models import FAMILIES
from lorica.tools.facts import Claim

if TYPE_CHECKING:
    from torch import Tensor


def base_of(adapter: Adapter, named: str | None, tensors: Mapping[str, Tensor]) -> Claim:
    """Return the base model of an adapter.

    Args:
        adapter: what was read.
        named: the family that reading settled on, if any.
        tensors: the tensors of the file, for files of which nothing could be read.
    """
    evidence = (*_said(adapter.metadata), *_shown(adapter, tensors))
    if named is None:
        return Claim(None, "unknown", evidence)
    return Claim(named, FAMILIES[named].title, evidence)


def _said(metadata: Mapping[str, str]) -> Iterator[str]:
    """Yield what the metadata says of the base model."""
    for field in BASE_MODEL_FIELDS:
        if metadata.get(field, "None") != "None":
            yield f"metadata {field} = {metadata[field]:.80}"


def _shown(adapter: Adapter, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield what names and shapes show."""
    total = len(adapter)
    fitting = [family.title for family in FAMILIES.values() if looks.fits(adapter, family.target)]
    if fitting:
        yield f"all {total} modules have their places and sizes in {' and '.join(fitting)}"
    elif total:
        yield f"its {total} modules do not all fit any base model known here"
    looks_like = looks.sentence(tensors, None)
    if looks_like:
        yield looks_like
