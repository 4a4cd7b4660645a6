"""From the leaves of a module to its layer, and from a layer to its leaves, whatever the method."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor

from lorica.adapters import ANY, AdapterLayer
from lorica.errors import FormatError, ShapeError
from lorica.formats.methods import METHODS
from lorica.formats.methods.leaves import FOREIGN, TOLD, as_written
from lorica.formats.methods.method import BIAS, Form, Method, ModuleTensors, Wrapper
from lorica.models.folding import Shape


def build(leaves: Mapping[str, Tensor], alpha: float | None, shape: Shape | None) -> AdapterLayer:
    """The layer that the leaves of a module make.

    Args:
        leaves: meaning to tensor, without those that only tell something.
        alpha: the alpha; None stands for the rank.
        shape: the shape of the weight, if it is known.

    Raises:
        FormatError: if they make none.
        ShapeError: if they do not fit each other.
    """
    methods = methods_for(leaves)
    if isinstance(methods, str):
        raise FormatError(methods)
    method = next((method for method in methods if method.is_of(leaves)), methods[0])
    if isinstance(method, Wrapper):
        own = method.meanings()
        inner = build({meaning: tensor for meaning, tensor in leaves.items() if meaning not in own}, alpha, shape)
        return method.build_on(inner, _by_name(leaves, own))
    return method.build(ModuleTensors(_by_name(leaves, leaves.keys() - {BIAS}), alpha, leaves.get(BIAS), shape))


def methods_for(leaves: Iterable[str]) -> tuple[Method[Any], ...] | str:
    """The methods whose layers the leaves of a module may be, or the reason why they make none.

    Where several have the same leaves, the tensors tell which it is.

    Args:
        leaves: what the leaves mean, such as ``lora.down`` and ``alpha``.
    """
    return _methods_for(frozenset(leaves).difference(TOLD), tuple(METHODS.values()))


def size_of(leaves: Mapping[str, Tensor]) -> Shape | None:
    """Outputs and inputs of the weight that a module changes, or None if its tensors make no layer.

    One number is the size of a norm; ``ANY`` stands for what the tensors of a method do not tell. By its sizes a base
    model is known.
    """
    own = {meaning: tensor for meaning, tensor in leaves.items() if meaning not in TOLD}
    try:
        layer = build(own, 1.0, None)
    except (FormatError, ShapeError):
        return None
    return layer.weight_shape[:2] if method_of(layer).tells_size(own) else (ANY, ANY)


def method_of(layer: AdapterLayer) -> Method[Any]:
    """The method of a layer.

    Raises:
        FormatError: if files have no such method.
    """
    if layer.kind not in METHODS:
        raise FormatError(f"no file holds a {layer.kind} layer, so it cannot be cut or written.")
    return METHODS[layer.kind]


def inner_of(layer: AdapterLayer) -> AdapterLayer | None:
    """The layer that a layer stands on, if it stands on one."""
    return getattr(layer, "inner", None)


def forms(layer: AdapterLayer) -> Iterator[Form]:
    """The tensors of a layer by their meaning, without the alpha, in the ways in which files hold them.

    Raises:
        FormatError: if files have no such method.
    """
    inner = inner_of(layer)
    below = [Form()] if inner is None else list(forms(inner))
    for own in method_of(layer).forms(layer):
        yield from ({**rest, **own} for rest in below)


def leaves_of(layer: AdapterLayer) -> Form:
    """The tensors of a layer by their meaning, in the usual way: what :func:`rebuild` takes, changed."""
    return next(forms(layer))


def rebuild(layer: AdapterLayer, leaves: Mapping[str, Tensor], alpha: float, shape: Shape) -> AdapterLayer:
    """A layer of the same method and settings, of other tensors.

    Args:
        layer: the layer as it is.
        leaves: its leaves by meaning, as :func:`leaves_of` gives them, changed.
        alpha: the alpha.
        shape: the shape of the weight that the new layer changes.
    """
    method, inner = method_of(layer), inner_of(layer)
    if inner is None or not isinstance(method, Wrapper):
        return method.rebuild(layer, _by_name(leaves, leaves.keys()), alpha, shape)
    return method.build_on(rebuild(inner, leaves, alpha, shape), _by_name(leaves, method.meanings()), layer)


def alike(one: AdapterLayer, other: AdapterLayer) -> bool:
    """Whether two layers are of one method, settings, alpha and shapes of tensors."""
    inner = inner_of(one), inner_of(other)
    if one.kind != other.kind or not (inner[0] is None or inner[1] is None or alike(inner[0], inner[1])):
        return False
    settings = [{name: value for name, value in layer.settings.items() if name != "inner"} for layer in (one, other)]
    shapes = [{name: tuple(tensor.shape) for name, tensor in layer.tensors.items()} for layer in (one, other)]
    same_alpha = one.alpha == other.alpha or not has_alpha(one)
    return settings[0] == settings[1] and same_alpha and shapes[0] == shapes[1]


def has_alpha(layer: AdapterLayer) -> bool:
    """Whether the strength of a layer depends on an alpha."""
    return method_of(layer).alpha is not None


def untold_alpha(layer: AdapterLayer) -> float:
    """The alpha of a layer of whose alpha a file says nothing: the rank, and no constraint for a rotation."""
    return 0.0 if method_of(layer).zero_alpha else float(layer.rank)


def unwritable(layer: AdapterLayer, meaning: str) -> str:
    """The reason why a format cannot hold a layer, if it has no spelling for one of its tensors."""
    method, inner = method_of(layer), inner_of(layer)
    if inner is not None and meaning not in method.meanings():
        return unwritable(inner, meaning)
    return method.unwritable(layer, meaning)


def _by_name(leaves: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Some of the tensors by what their method calls them."""
    return {meaning.rpartition(".")[2]: tensor for meaning, tensor in leaves.items() if meaning in own}


@lru_cache(maxsize=256)
def _methods_for(meanings: frozenset[str], methods: tuple[Method[Any], ...]) -> tuple[Method[Any], ...] | str:
    known = frozenset({BIAS}).union(*(method.meanings() for method in methods))
    if not meanings <= known:
        return _reason_unknown(min(meanings - known))
    biases = sorted(meaning for meaning in meanings if meaning.rpartition(".")[2] == BIAS)
    if len(biases) > 1:
        return f"its module holds the change of its bias twice, as {' and as '.join(biases)}."
    for method in methods:
        own = meanings & method.meanings()
        if own and isinstance(method, Wrapper):
            inner = _methods_for(meanings - own, methods)
            reason = inner if isinstance(inner, str) else method.refuses(inner[0])
            return reason or ((method,) if method.takes(own) else _reason_incomplete(own, (method,)))
    groups = sorted({meaning.partition(".")[0] for meaning in meanings if "." in meaning})
    if len(groups) > 1:
        return f"its module holds the leaves of several methods ({' and '.join(groups)}); a module has one."
    taking = tuple(method for method in methods if method.takes(meanings))
    return taking or _reason_incomplete(meanings, methods)


def _reason_unknown(meaning: str) -> str:
    leaf = as_written(meaning)
    known = f", which is of {FOREIGN[leaf]} and cannot be read" if leaf in FOREIGN else ", which is not known here"
    return f"its module holds {leaf!r}{known}; without it the rest of the module would be wrong."


def _reason_incomplete(meanings: frozenset[str], methods: tuple[Method[Any], ...]) -> str:
    patterns = [needs for method in methods for needs, _ in method.needs() if needs & meanings]
    lacking = min((_names(needs - meanings) for needs in patterns), key=len, default=[])
    if lacking:
        return f"its module has no {' and no '.join(lacking)} tensor."
    return f"its module holds {', '.join(_names(meanings)) or 'no tensors'}, which make no layer."


def _names(meanings: Iterable[str]) -> list[str]:
    return sorted(meaning.rpartition(".")[2] for meaning in meanings)
