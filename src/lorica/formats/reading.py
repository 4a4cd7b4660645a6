"""From a source to an adapter: recognise the format, account for every key, check every tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from lorica.adapters import Adapter
from lorica.errors import FormatError
from lorica.formats import looks
from lorica.formats.account import Account
from lorica.formats.dialects.dialect import Dialect
from lorica.formats.embeddings import START as BUNDLED
from lorica.formats.keys import Keys
from lorica.formats.methods.layers import check_finite
from lorica.formats.modules import ModuleReader
from lorica.formats.storage.files import Stored
from lorica.models import FAMILIES, Target
from lorica.models.detect import Candidate

# Metadata that may name the base model, the surest first.
BASE_MODEL_FIELDS = ("modelspec.architecture", "ss_base_model_version", "base_model", "ss_sd_model_name")


def recognise(stored: Stored, formats: Mapping[str, Dialect]) -> Dialect:
    """Return the one format that a file is in.

    Raises:
        FormatError: if none recognises it, or several do.
    """
    if not stored.tensors:
        raise FormatError(f"{stored.source} holds no tensors at all.")
    keys = Keys.of(stored.tensors, stored.metadata)
    found = [dialect for dialect in formats.values() if dialect.recognises(keys)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(dialect.NAME for dialect in found)
        raise FormatError(f"{stored.source} holds keys of several formats ({names}); a file is in one.")
    sample = ", ".join(list(stored.tensors)[:3])
    raise FormatError(
        f"{stored.source} is in no adapter format that is known here ({', '.join(formats)}): its "
        f"{len(stored.tensors)} keys begin {sample}. {_whole_model(stored.tensors)}"
    )


def interpret(
    stored: Stored, dialect: Dialect, target: Target | None, *, strict: bool, check_values: bool = True
) -> Adapter:
    """Return the adapter that a file in a known format holds.

    Args:
        stored: the content of the file.
        dialect: the format.
        target: the model that it is for, if it is known.
        strict: refuse a file with keys that have no use.
        check_values: look at every number for NaN and infinity; without it no tensor is read.

    Raises:
        FormatError: if a tensor is broken or, when strict, a key has no use.
        ShapeError: if the tensors of a module do not fit each other.
    """
    account = Account(dialect.NAME, stored.source)
    parsed = dialect.parse(stored, target, account)
    if check_values:
        check_finite(stored, parsed.modules)
    components = ModuleReader(stored, parsed, account).read()
    adapter = Adapter(components, metadata=_kept(stored.metadata), embeddings=parsed.embeddings)
    report = account.report(_base_model(adapter, account.candidates, parsed.target))
    if strict and report.unused:
        raise account.error(parsed.known(), looks.sentence(stored.tensors, parsed.target))
    return replace(adapter, report=report)


def _kept(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in metadata.items() if name != "format"}


def _base_model(adapter: Adapter, candidates: Sequence[Candidate], fitted: Target | None) -> str | None:
    """Return the name of the family that the metadata names or that alone fits, or None."""
    for field in BASE_MODEL_FIELDS:
        said = adapter.metadata.get(field, "").lower().removesuffix("/lora").rpartition("/")[2]
        for name, family in FAMILIES.items() if said else ():
            if said in (name, *family.base_models):
                return name
    family = looks.family_of(adapter, candidates, fitted)
    return family.name if family else None


def _whole_model(tensors: Mapping[str, Tensor]) -> str:
    if all(key.startswith(BUNDLED) for key in tensors):
        return "It holds the embeddings of words alone (textual inversion), and no layer of an adapter."
    starts = ("model.diffusion_model.", "first_stage_model.", "conv_in.", "down_blocks.")
    if any(key.startswith(starts) for key in tensors):
        return "It looks like a whole model, not an adapter."
    return "Is it an adapter?"
