"""One module of a file for several of the model (q, k and v in one weight): taken apart when read, joined when written.

Exact or refused: what reading would not give back bit for bit is not written. Read, the tensors that have rows of the
weight are cut and the others are shared, unless a low-rank layer is block-diagonal: then each part gets its own block.
Written, parts that share are stacked again, and others become blocks:

    up = [[up_q, 0,    0   ],
          [0,    up_k, 0   ],    down = [down_q; down_k; down_v],  alpha = alpha_q * (r_q + r_k + r_v) / r_q
          [0,    0,    up_v]]

A LoHa is two such products, so the same holds for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from math import inf, nextafter

import torch
from torch import Tensor

from lorica.adapters import AdapterLayer
from lorica.errors import FormatError, ShapeError
from lorica.formats.methods.layers import has_alpha, inner_of, leaves_of, method_of, rebuild
from lorica.formats.methods.method import BIAS
from lorica.formats.names import Location
from lorica.models.spellings.part import RowRange

Pieces = Sequence[RowRange]


def split(layer: AdapterLayer, location: Location) -> dict[str, AdapterLayer]:
    """The layers, by path, of the modules that a fused layer of a file stands for; without those that change nothing.

    Raises:
        FormatError: if the method cannot be cut there without changing it.
    """
    pieces = location.rows()
    blocks = _blocks(layer, list(pieces.values()))
    if blocks:
        parts = zip(pieces.items(), blocks, strict=True)
        return {path: _cut(layer, rows, columns) for (path, rows), columns in parts if columns[0] < columns[1]}
    cut = {path: _cut(layer, rows) for path, rows in pieces.items()}
    return {path: part for path, part in cut.items() if method_of(part).changes(part)} or cut


def join(layers: Mapping[str, AdapterLayer], location: Location) -> AdapterLayer | str:
    """The fused layer of which :func:`split` makes the given ones, or the reason why there is none."""
    kinds = sorted({layer.kind for layer in layers.values()})
    if len(kinds) > 1:
        return f"the format has one layer for all of them, and they are of several methods ({', '.join(kinds)})."
    ordered = {path: layers[path] for path in location.rows() if path in layers}
    for make in (_stack, _join_blocks):
        with suppress(FormatError, ShapeError):  # they do not fit over each other
            joined = make(ordered, location.rows())
            if joined is not None and split(joined, location) == ordered:
                return joined
    return f"the format has one layer for all of them, and {kinds[0]} layers like these cannot be joined exactly."


def _cut(layer: AdapterLayer, rows: Pieces, columns: RowRange | None = None) -> AdapterLayer:
    """The layer of some rows of the weight; of one block, with only its own columns of ``up``."""
    leaves, alpha = leaves_of(layer), layer.alpha
    for leaf, height in _heights(layer).items():
        if any(edge % height for piece in rows for edge in piece):
            edges = ", ".join(f"{start} to {stop}" for start, stop in rows)
            raise FormatError(
                f"a {layer.kind} layer in blocks of {height} rows cannot be cut into the rows {edges} without a change."
            )
        leaves[leaf] = _rows_of(leaves[leaf], [(start // height, stop // height) for start, stop in rows])
    if columns:
        begin, end = columns
        for up, down in _pairs(layer):
            leaves[up], leaves[down] = leaves[up][:, begin:end], leaves[down][begin:end]
        alpha = _share(alpha, layer.rank / (end - begin))
    return rebuild(layer, leaves, alpha, (_count(rows), *layer.weight_shape[1:]))


def _stack(layers: Mapping[str, AdapterLayer], pieces: Mapping[str, Pieces]) -> AdapterLayer | None:
    """The parts over each other, a missing one as zeros; right if they share all that is not a row of their own."""
    first = next(iter(layers.values()))
    parts = {path: leaves_of(layer) for path, layer in layers.items()}
    heights, joined = _heights(first), leaves_of(first)
    if any(leaves.keys() != joined.keys() for leaves in parts.values()):
        return None
    for leaf, height in heights.items():
        joined[leaf] = _put_rows({path: leaves[leaf] for path, leaves in parts.items()}, pieces, height)
    return rebuild(first, joined, first.alpha, (_height(pieces), *first.weight_shape[1:]))


def _join_blocks(layers: Mapping[str, AdapterLayer], pieces: Mapping[str, Pieces]) -> AdapterLayer | None:
    """A layer of one block for each part; None if they have different scalings or are not low-rank."""
    first = next(iter(layers.values()))
    pairs = _pairs(first)
    parts = {path: leaves_of(layer) for path, layer in layers.items()}
    if not pairs or len({(layer.alpha / layer.rank, tuple(parts[path])) for path, layer in layers.items()}) > 1:
        return None
    rank = sum(layer.rank for layer in layers.values())
    joined: dict[str, Tensor] = {}
    for up, down in pairs:
        joined[down] = torch.cat([leaves[down] for leaves in parts.values()])
        joined[up] = _diagonal({path: leaves[up] for path, leaves in parts.items()}, pieces, rank)
    for leaf in parts[next(iter(layers))].keys() - joined.keys():  # a bias, magnitudes
        if len(layers) < len(pieces):
            return None  # those of the missing parts are not known
        joined[leaf] = _put_rows({path: leaves[leaf] for path, leaves in parts.items()}, pieces, 1)
    return rebuild(first, joined, first.alpha * (rank / first.rank), (_height(pieces), *first.weight_shape[1:]))


def _diagonal(ups: Mapping[str, Tensor], pieces: Mapping[str, Pieces], rank: int) -> Tensor:
    like = next(iter(ups.values()))
    whole = like.new_zeros(_height(pieces), rank, *like.shape[2:])
    column = 0
    for path, up in ups.items():
        width = up.shape[1]
        whole[:, column : column + width] = _put_rows({path: up}, pieces, 1)
        column += width
    return whole


def _heights(layer: AdapterLayer) -> dict[str, int]:
    """The leaves that are cut with the weight, each with the rows of the weight that one row of it stands for."""
    method, inner = method_of(layer), inner_of(layer)
    if not method.can_be_cut:
        raise FormatError(f"a {layer.kind} layer cannot be cut into the rows of several modules.")
    if inner is not None:
        return {**_heights(inner), **method.heights(layer)}
    return {**method.heights(layer), **({BIAS: 1} if BIAS in leaves_of(layer) else {})}


def _pairs(layer: AdapterLayer) -> tuple[tuple[str, str], ...]:
    """The pairs of leaves, up and down, that make the layer's change; none if it is not low-rank."""
    method, inner = method_of(layer), inner_of(layer)
    if not method.can_be_cut or not has_alpha(layer):
        return ()
    return method.pairs(layer) if inner is None else _pairs(inner)


def _rows_of(tensor: Tensor, pieces: Pieces) -> Tensor:
    """Some rows of a tensor: a view if they stand together."""
    cut = [tensor[start:stop] for start, stop in pieces]
    return cut[0] if len(cut) == 1 else torch.cat(cut)


def _put_rows(tensors: Mapping[str, Tensor], pieces: Mapping[str, Pieces], height: int) -> Tensor:
    """One tensor of several, each at its rows; ``height`` rows of the weight stand in one row of it."""
    like = next(iter(tensors.values()))
    whole = like.new_zeros(_height(pieces) // height, *like.shape[1:])
    for path, tensor in tensors.items():
        begin = 0
        for start, stop in pieces[path]:
            end = begin + (stop - start) // height
            place, own = whole[start // height : stop // height], tensor[begin:end]
            if own.shape != place.shape:
                raise FormatError(f"tensors of shape {tuple(tensor.shape)} and {tuple(like.shape)} cannot be stacked.")
            place.copy_(own)
            begin = end
    return whole


def _count(pieces: Pieces) -> int:
    return sum(stop - start for start, stop in pieces)


def _height(pieces: Mapping[str, Pieces]) -> int:
    return sum(map(_count, pieces.values()))


def _share(alpha: float, count: float) -> float:
    """``alpha / count``; of the neighbouring floats that give alpha again, the one that is written shortest.

    So an alpha of 0.1 comes back from its triple, which a division alone would make 0.10000000000000002.
    """
    near = alpha / count
    again = [share for share in (near, nextafter(near, -inf), nextafter(near, inf)) if share * count == alpha]
    return min(again, key=lambda share: len(repr(share)), default=near)


def _blocks(layer: AdapterLayer, pieces: Sequence[Pieces]) -> list[RowRange] | None:
    """The columns of each part, if every part has zeros (exactly +0.0) everywhere else; None if there are no blocks.

    Where zeros within a block leave a choice, blocks of one size are preferred.
    """
    leaves = leaves_of(layer)
    ups = [leaves[up].flatten(1) for up, _ in _pairs(layer)]
    if not ups or len(pieces) < 2 or all(up[0, -1] != 0 and up[-1, 0] != 0 for up in ups):
        return None  # the usual file: both corners are in use
    used = [_columns_in_use([_rows_of(up, rows) for up in ups]) for rows in pieces]
    rank, busy = ups[0].shape[1], sum(bool(columns.any()) for columns in used)
    sizes = [[rank // len(used)] * len(used), [int(columns.sum()) for columns in used]]
    if busy:
        sizes.insert(1, [rank // busy if columns.any() else 0 for columns in used])
    for each in sizes:
        blocks = list(pairwise(accumulate(each, initial=0)))
        inside = (
            not columns[:start].any() and not columns[stop:].any()
            for columns, (start, stop) in zip(used, blocks, strict=True)
        )
        if blocks[-1][1] == rank and all(inside):
            return blocks
    return None


def _columns_in_use(tensors: Sequence[Tensor]) -> Tensor:
    bits = [tensor.contiguous().view(getattr(torch, f"int{8 * tensor.dtype.itemsize}")) for tensor in tensors]
    return torch.stack([(number != 0).any(0) for number in bits]).any(0)
