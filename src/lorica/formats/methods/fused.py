"""One module of a file for several of the model (q, k and v in one weight): taken apart when read, joined when written.

Exact or refused. Read, a LoRA's ``up`` is cut into rows while ``down`` and alpha are shared, unless ``up`` is
block-diagonal: then each part gets its own block. Written, parts that share are stacked again, and others become
block-diagonal. What reading would not give back bit for bit is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from lorica.adapters import AdapterLayer
from lorica.adapters.base import same
from lorica.errors import FormatError, ShapeError
from lorica.formats.methods.diagonal import join_diagonal, split_diagonal
from lorica.formats.methods.layers import has_alpha, leaves_of, method_of, rebuild
from lorica.formats.methods.rows import Pieces, count_rows, heights_of, put_rows, take_rows
from lorica.formats.names import Location


def split(layer: AdapterLayer, location: Location) -> dict[str, AdapterLayer]:
    """The layers, by path, of the modules that a fused layer of a file stands for.

    A part that changes nothing is left out.

    Raises:
        FormatError: if the method cannot be cut there without changing it.
    """
    pieces = location.rows()
    parts = split_diagonal(layer, pieces) or {path: take_rows(layer, rows) for path, rows in pieces.items()}
    changing = {path: part for path, part in parts.items() if method_of(part).changes(part)}
    return changing or parts


def join(layers: Mapping[str, AdapterLayer], location: Location) -> AdapterLayer | str:
    """The fused layer of which :func:`split` makes the given ones, or the reason why there is none."""
    kinds = {layer.kind for layer in layers.values()}
    if len(kinds) > 1:
        return (
            f"the format has one layer for all of them, and they are of several methods ({', '.join(sorted(kinds))})."
        )
    pieces = location.rows()
    ordered = {path: layers[path] for path in pieces if path in layers}
    for make in (_stack, join_diagonal):
        try:
            joined = make(ordered, pieces)
        except (FormatError, ShapeError):
            continue  # they do not fit over each other
        if joined is not None and _gives_back(joined, location, ordered):
            return joined
    return f"the format has one layer for all of them, and {kinds.pop()} layers like these cannot be joined exactly."


def _gives_back(joined: AdapterLayer, location: Location, layers: Mapping[str, AdapterLayer]) -> bool:
    try:
        return split(joined, location) == dict(layers)
    except (FormatError, ShapeError):
        return False


def _stack(layers: Mapping[str, AdapterLayer], pieces: Mapping[str, Pieces]) -> AdapterLayer | None:
    """The parts over each other where they share everything that is not a row of their own, or None.

    A missing part has rows of zeros.

    Raises:
        FormatError: if they do not share it, or their rows do not fit over each other.
    """
    first = next(iter(layers.values()))
    parts = {path: leaves_of(layer) for path, layer in layers.items()}
    if len({(_alpha(layer), tuple(parts[path])) for path, layer in layers.items()}) > 1:
        return None
    heights = heights_of(first)
    joined = {
        leaf: put_rows({path: leaves[leaf] for path, leaves in parts.items()}, pieces, heights[leaf])
        if leaf in heights
        else _shared([leaves[leaf] for leaves in parts.values()])
        for leaf in leaves_of(first)
    }
    height = count_rows([rows for place in pieces.values() for rows in place])
    return rebuild(first, joined, first.alpha, (height, *first.weight_shape[1:]))


def _alpha(layer: AdapterLayer) -> float | None:
    return layer.alpha if has_alpha(layer) else None


def _shared(tensors: Sequence[Tensor]) -> Tensor:
    """The tensor that all parts have.

    Raises:
        FormatError: if they differ.
    """
    if not all(same(tensor, tensors[0]) for tensor in tensors):
        raise FormatError("they do not share what a fused layer has once.")
    return tensors[0]
