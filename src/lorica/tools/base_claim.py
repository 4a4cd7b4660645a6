"""Which base model a file is for, with all that speaks for it and against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lorica.adapters import Adapter
from lorica.formats import looks
from lorica.formats.reading import BASE_MODEL_FIELDS
from lorica.models import FAMILIES
from lorica.tools.facts import Claim


def base_of(adapter: Adapter) -> Claim:
    """Return the base model of an adapter, as reading settled on it, or else those that it fits alike."""
    report = adapter.report
    named = report.base_model if report else None
    shown = report.evidence if report else ()
    if not shown and len(adapter):
        nothing = ("none of its modules is known of any base model here.",)
        shown = next((candidate.evidence for candidate in looks.candidates_for(adapter)), nothing)
    evidence = (*_said(adapter.metadata), *shown)
    if named is not None:
        return Claim(named, FAMILIES[named].title, evidence)
    alike = looks.families_of(adapter)
    if not alike:
        return Claim(None, "unknown", evidence)
    titles = [family.title for family in alike]
    return Claim(None, " or ".join(titles), (*evidence, f"it fits {' and '.join(titles)} alike."))


def _said(metadata: Mapping[str, str]) -> Iterator[str]:
    """Yield what the metadata says of the base model."""
    for field in BASE_MODEL_FIELDS:
        if metadata.get(field, "None") != "None":
            yield f"metadata {field} = {metadata[field]:.80}"
