"""Which base model a file is for, with all that speaks for it and against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lorica.adapters import Adapter
from lorica.formats.base_model import candidates_for, families_of
from lorica.formats.reading import BASE_MODEL_FIELDS
from lorica.models import FAMILIES
from lorica.models.detect import Candidate
from lorica.tools.facts import Claim


def base_of(adapter: Adapter) -> Claim:
    """Return the base model of an adapter, as reading settled on it, or else those that it fits alike.

    A base model that only the metadata names does not count where the file's own names and sizes fit another alone.
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
    evidence = (*_said(adapter.metadata), *shown)
    if named is not None:
        return Claim(named, FAMILIES[named].title, evidence)
    alike = families_of(adapter, candidates)
    if not alike:
        return Claim(None, "unknown", evidence)
    titles = [family.title for family in alike]
    return Claim(None, " or ".join(titles), (*evidence, f"it fits {' and '.join(titles)} alike."))


def _said(metadata: Mapping[str, str]) -> Iterator[str]:
    """Yield what the metadata says of the base model."""
    for field in BASE_MODEL_FIELDS:
        if metadata.get(field, "None") != "None":
            yield f"metadata {field} = {metadata[field]:.80}"
