"""From a source to an adapter: recognise the format, account for every key, check every tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from lorica.adapters import Adapter
from lorica.errors import FormatError
from lorica.formats.account import Account
from lorica.formats.base_model import families_of, sentence
from lorica.formats.dialects.dialect import Dialect
from lorica.formats.keys_to_modules import EMBEDDINGS, Keys, Leaves
from lorica.formats.modules import ModuleReader
from lorica.formats.storage.files import FileContents
from lorica.formats.unit_scaling import ALPHAS, with_own_alphas
from lorica.models import FAMILIES, Target
from lorica.models.detect import Candidate

# Metadata that may name the base model, the surest first.
BASE_MODEL_FIELDS = ("modelspec.architecture", "ss_base_model_version", "base_model", "ss_sd_model_name")


def recognise(contents: FileContents, formats: Mapping[str, Dialect]) -> Dialect:
    """The one format that a file is in.

    Raises:
        FormatError: if none recognises it, or several do.
    """
    if not contents.tensors:
        raise FormatError(f"{contents.source} holds no tensors at all.")
    keys = Keys.of(contents.tensors, contents.metadata)
    found = [dialect for dialect in formats.values() if dialect.recognises(keys)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(dialect.name for dialect in found)
        raise FormatError(f"{contents.source} holds keys of several formats ({names}); a file is in one.")
    sample = ", ".join(list(contents.tensors)[:3])
    raise FormatError(
        f"{contents.source} is in no adapter format that is known here ({', '.join(formats)}): its "
        f"{len(contents.tensors)} keys begin {sample}. {_whole_model(contents.tensors)}"
    )


def interpret(
    contents: FileContents, dialect: Dialect, target: Target | None, *, strict: bool, check_values: bool = True
) -> Adapter:
    """The adapter that a file in a known format holds.

    Args:
        contents: the content of the file.
        dialect: the format.
        target: the model that it is for, if it is known.
        strict: refuse a file with keys that have no use.
        check_values: look at every number for NaN and infinity; without it no tensor is read.

    Raises:
        FormatError: if a tensor is broken or, when strict, a key has no use.
        ShapeError: if the tensors of a module do not fit each other.
    """
    account = Account(dialect.name, contents.source)
    parsed = dialect.parse(contents, target, account)
    if check_values:
        check_finite(contents, parsed.modules.leaves)
    components = ModuleReader(contents, parsed, account).read()
    if ALPHAS in contents.metadata:
        components = with_own_alphas(components, contents.metadata[ALPHAS], contents.source)
    adapter = Adapter(components, metadata=_kept(contents.metadata), embeddings=parsed.embeddings)
    report = account.report(*_base_model(adapter, account.candidates, parsed.target))
    if strict and report.unused:
        raise account.error(parsed.known(), sentence(contents.tensors, parsed.target))
    return replace(adapter, report=report)


def _kept(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in metadata.items() if name != "format"}


def _base_model(
    adapter: Adapter, candidates: Sequence[Candidate], fitted: Target | None
) -> tuple[str | None, tuple[str, ...]]:
    """The name of the family that alone fits, or that the metadata claims of those that fit; and evidence for it.

    A claim of a family that the modules do not fit counts for nothing where they fit another one.
    """
    fitting = [family.name for family in families_of(adapter, candidates, fitted)]
    evidence = candidates[0].evidence if candidates else ()
    for field in BASE_MODEL_FIELDS:
        said = adapter.metadata.get(field, "").lower().removesuffix("/lora").rpartition("/")[2]
        claimed = [name for name, family in FAMILIES.items() if said and said in (name, *family.base_models)]
        agreed = [name for name in claimed if name in fitting] if fitting else claimed
        if agreed:
            return agreed[0], evidence
        if claimed:
            evidence = (
                *evidence,
                f"its metadata ({field}) claims {FAMILIES[claimed[0]].title}, which does not fit it.",
            )
    return fitting[0] if len(fitting) == 1 else None, evidence


def _whole_model(tensors: Mapping[str, Tensor]) -> str:
    if all(key.startswith(EMBEDDINGS) for key in tensors):
        return "It holds the embeddings of words alone (textual inversion), and no layer of an adapter."
    starts = ("model.diffusion_model.", "first_stage_model.", "conv_in.", "down_blocks.")
    if any(key.startswith(starts) for key in tensors):
        return "It looks like a whole model, not an adapter."
    return "Is it an adapter?"


def check_finite(contents: FileContents, modules: Mapping[str, Leaves]) -> None:
    """Refuse tensors that hold NaN or infinity; alphas are looked at where they are used, or mean nothing.

    One sum over each block of the file: an infinite or undefined element makes the sum so too. A half-precision sum may
    also overflow, so after a suspect sum every tensor is looked at.

    Raises:
        FormatError: naming the first such key.
    """
    if contents.blocks and all(_sums_up(block) for block in contents.blocks):
        return
    alphas = {leaves["alpha"] for leaves in modules.values() if "alpha" in leaves}
    for key, tensor in contents.tensors.items():
        if key in alphas or _sums_up(tensor):
            continue
        finite = _wide(tensor).isfinite()
        if not finite.all():
            raise FormatError(
                f"{contents.source}: {key!r} holds {int((~finite).sum())} values of {tensor.numel()} that are "
                "NaN or infinite; the training that made it diverged, or the file is broken."
            )


def _sums_up(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(_wide(tensor).sum().isfinite())


def _wide(tensor: Tensor) -> Tensor:
    """The numbers in a dtype that can be summed, which 8-bit floats cannot."""
    return tensor if tensor.element_size() > 1 else tensor.float()
