"""From a source to an adapter: recognise the format, account for every key, check every tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from lorica.adapters import Adapter, AdapterLayer
from lorica.errors import FormatError
from lorica.formats import looks, peft_bias
from lorica.formats.account import Account
from lorica.formats.alike import LayerMaker
from lorica.formats.dialect import Dialect, Parsed
from lorica.formats.files import Stored
from lorica.formats.fused import split
from lorica.formats.keys import Keys
from lorica.formats.layers import TOLD, Leaves, check_finite, fitted, one_number, stored_alpha, twice
from lorica.formats.places import Place, Shape
from lorica.formats.recipes import with_alpha
from lorica.formats.spelling import Spelling
from lorica.formats.widened import too_narrow
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
        check_finite(stored)
    components = _components(stored, parsed, account)
    adapter = Adapter(components, metadata=_kept(stored.metadata), embeddings=parsed.embeddings)
    report = account.report(_base_model(adapter, account.candidates, parsed.target))
    if strict and report.unused:
        raise account.error(parsed.known(), looks.sentence(stored.tensors, parsed.target))
    return replace(adapter, report=report)


def _components(stored: Stored, parsed: Parsed, account: Account) -> dict[str, dict[str, AdapterLayer]]:
    components: dict[str, dict[str, AdapterLayer]] = {}
    taken: dict[tuple[str, str], Leaves] = {}
    maker = LayerMaker(stored)
    for name, leaves in parsed.modules.items():
        place = parsed.locate(name)
        if isinstance(place, str):
            for key in leaves.values():
                account.leave_stranger(key, name, place)
            continue
        layers = _layers(maker, stored, parsed, account, place, leaves)
        if isinstance(layers, str):
            account.leave(leaves.values(), layers)
            continue
        component = components.setdefault(place.component, {})
        for path, layer in layers.items():
            _take(taken, (place.component, path), leaves, stored.source)
            component[path] = layer
        account.used.extend(leaves.values())
        _note(account.spelling, stored, name, place, leaves)
    return components


def _note(spelling: Spelling, stored: Stored, name: str, place: Place, leaves: Leaves) -> None:
    """Note how the file spells a module."""
    spelling.places[name], spelling.leaves[name] = place, leaves
    if "magnitude" in leaves:
        spelling.shapes[leaves["magnitude"]] = tuple(stored.tensors[leaves["magnitude"]].shape)
    for number in TOLD:
        if number in leaves:
            spelling.numbers[leaves[number]] = stored.tensors[leaves[number]]


def _take(taken: dict[tuple[str, str], Leaves], place: tuple[str, str], leaves: Leaves, source: str) -> None:
    """Note that a module of the model has its layer.

    Raises:
        FormatError: if it has one already: the file names it twice.
    """
    other = taken.setdefault(place, leaves)
    if other is not leaves:
        meaning = next((meaning for meaning in leaves if meaning in other), next(iter(leaves)))
        first = other.get(meaning) or next(iter(other.values()))
        raise twice(source, first, leaves[meaning], f"{meaning.rpartition('.')[2]} of {'.'.join(place)}")


def _layers(
    maker: LayerMaker, stored: Stored, parsed: Parsed, account: Account, place: Place, leaves: Leaves
) -> dict[str, AdapterLayer] | str:
    """Return the layers, by path, that one module of the file makes, or the reason why there are none."""
    shapes = parsed.target.components[place.component] if parsed.target else None
    shape = None if shapes is None else place.shape_in(shapes)
    layer = maker.make(leaves, _alpha(stored, parsed, leaves), shape)
    if isinstance(layer, str):
        return layer
    if "scale" in leaves:
        layer = with_alpha(layer, one_number(stored, leaves["scale"]) * layer.rank)
    elif "alpha" not in leaves:
        layer = _with_default_alpha(layer, parsed, place)
    if leaves.get("bias", "").endswith(peft_bias.LEAF):
        layer = peft_bias.with_scaled_bias(layer)
    layer = parsed.revise(place.parts[0].path, layer, shape)
    if isinstance(layer, str):
        return layer
    if place.is_whole:
        path = place.parts[0].path
        fit = _fit({path: layer}, shapes)
        if not isinstance(fit, str) and fit[path] is not layer:
            account.spelling.shapes.update({key: tuple(stored.tensors[key].shape) for key in leaves.values()})
        return fit
    if shapes and not layer.fits(place.shape_in(shapes)):
        return _misfit(layer, place.shape_in(shapes), place.parts[0].path)
    try:
        return _fit(split(layer, place), shapes)
    except FormatError as error:
        return str(error)


def _alpha(stored: Stored, parsed: Parsed, leaves: Leaves) -> float | None:
    """Return the alpha that the file gives a module; None stands for the rank."""
    if "scale" in leaves:
        return None
    alpha = stored_alpha(stored, leaves)
    return None if alpha == 0 and parsed.zero_is_rank and "oft.blocks" not in leaves else alpha


def _with_default_alpha(layer: AdapterLayer, parsed: Parsed, place: Place) -> AdapterLayer:
    """Return the layer with the alpha that the file's configuration gives it, if there is one."""
    alpha = parsed.default_alpha(place.component, place.parts[0].path, layer.rank)
    return layer if alpha is None else with_alpha(layer, alpha)


def _fit(layers: dict[str, AdapterLayer], shapes: Mapping[str, Shape] | None) -> dict[str, AdapterLayer] | str:
    """Return the layers as the model's weights need them, or the reason why one does not fit."""
    if shapes is None:
        return layers
    for path, layer in layers.items():
        fit = fitted(layer, shapes[path])
        if fit is None:
            return _misfit(layer, shapes[path], path)
        layers[path] = fit
    return layers


def _misfit(layer: AdapterLayer, shape: Shape, path: str) -> str:
    advice = too_narrow(path, layer.weight_shape, shape)
    return f"it changes a weight of shape {layer.weight_shape}, but the model has {shape} there.{advice}"


def _kept(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in metadata.items() if name != "format"}


def _base_model(adapter: Adapter, candidates: Sequence[Candidate], fitted: Target | None) -> str | None:
    """Return the name of the family that the metadata names or that alone fits, or None."""
    for field in BASE_MODEL_FIELDS:
        said = adapter.metadata.get(field, "").lower().removesuffix("/lora").rpartition("/")[2]
        for name, family in FAMILIES.items():
            if said in (name, *family.base_models):
                return name
    family = looks.family_of(adapter, candidates, fitted)
    return family.name if family else None


def _whole_model(tensors: Mapping[str, Tensor]) -> str:
    starts = ("model.diffusion_model.", "first_stage_model.", "conv_in.", "down_blocks.")
    if any(key.startswith(starts) for key in tensors):
        return "It looks like a whole model, not an adapter."
    return "Is it an adapter?"
