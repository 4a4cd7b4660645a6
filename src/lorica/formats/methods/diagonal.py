"""Several low-rank layers in one: ``down`` over each other, ``up`` block-diagonal, and the way back.

    up = [[up_q, 0,    0   ],
          [0,    up_k, 0   ],    down = [down_q; down_k; down_v],  alpha = alpha_q * (r_q + r_k + r_v) / r_q
          [0,    0,    up_v]]

A LoHa is two such products, so the same holds for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from math import inf, nextafter

import torch
from torch import Tensor

from lorica.adapters import AdapterLayer
from lorica.formats.methods.layers import inner_of, leaves_of, method_of, rebuild
from lorica.formats.methods.rows import Pieces, put_rows, rows_of, take_rows
from lorica.models.spellings.part import RowRange

_BITS = {1: "int8", 2: "int16", 4: "int32", 8: "int64"}  # bytes to the whole numbers of as many


def pairs_of(layer: AdapterLayer) -> tuple[tuple[str, str], ...]:
    """The pairs of leaves, up and down, that make the layer's change; nothing if it is not low-rank."""
    method, inner = method_of(layer), inner_of(layer)
    if not method.can_be_cut:
        return ()
    return method.pairs(layer) if inner is None else pairs_of(inner)


def split_diagonal(layer: AdapterLayer, pieces: Mapping[str, Pieces]) -> dict[str, AdapterLayer] | None:
    """The layers of the parts of a block-diagonal layer by path, each of its own rank.

    A part without a block is left out: it does not change.

    Args:
        layer: a layer of a fused weight.
        pieces: path to the rows of the weight that are its own, in the order of the blocks.

    Returns:
        The layers, or None if the layer is not block-diagonal.
    """
    pairs = pairs_of(layer)
    if not pairs or len(pieces) < 2:
        return None
    leaves = leaves_of(layer)
    blocks = _blocks([leaves[up].flatten(1) for up, _ in pairs], list(pieces.values()))
    if blocks is None:
        return None
    parts = zip(pieces.items(), blocks, strict=True)
    return {path: _block(layer, rows, columns) for (path, rows), columns in parts if columns[0] < columns[1]}


def join_diagonal(layers: Mapping[str, AdapterLayer], pieces: Mapping[str, Pieces]) -> AdapterLayer | None:
    """One layer of the fused weight, or None if the parts have different scalings or are not low-rank.

    Args:
        layers: path to layer, of one method; some parts may be missing.
        pieces: path to the rows of the fused weight, in the order of the blocks.
    """
    first = next(iter(layers.values()))
    pairs = pairs_of(first)
    parts = {path: leaves_of(layer) for path, layer in layers.items()}
    if not pairs or len({(layer.alpha / layer.rank, tuple(parts[path])) for path, layer in layers.items()}) > 1:
        return None
    rank = sum(layer.rank for layer in layers.values())
    joined: dict[str, Tensor] = {}
    for up, down in pairs:
        joined[down] = torch.cat([leaves[down] for leaves in parts.values()])
        joined[up] = _diagonal({path: leaves[up] for path, leaves in parts.items()}, pieces, rank)
    for leaf in leaves_of(first).keys() - joined.keys():  # a bias, magnitudes
        if len(layers) < len(pieces):
            return None  # those of the missing parts are not known
        joined[leaf] = put_rows({path: leaves[leaf] for path, leaves in parts.items()}, pieces, 1)
    height = sum(stop - start for rows in pieces.values() for start, stop in rows)
    return rebuild(first, joined, first.alpha * (rank / first.rank), (height, *first.weight_shape[1:]))


def _diagonal(ups: Mapping[str, Tensor], pieces: Mapping[str, Pieces], rank: int) -> Tensor:
    like = next(iter(ups.values()))
    height = max(stop for rows in pieces.values() for _, stop in rows)
    whole = like.new_zeros(height, rank, *like.shape[2:])
    column = 0
    for path, up in ups.items():
        row = 0
        for start, stop in pieces[path]:
            whole[start:stop, column : column + up.shape[1]] = up[row : row + stop - start]
            row += stop - start
        column += up.shape[1]
    return whole


def _block(layer: AdapterLayer, rows: Pieces, columns: RowRange) -> AdapterLayer:
    """The layer of one part: its rows of ``up``, and only its own columns."""
    own = take_rows(layer, rows)
    leaves, start, stop = leaves_of(own), *columns
    for up, down in pairs_of(layer):
        leaves[up], leaves[down] = leaves[up][:, start:stop], leaves[down][start:stop]
    return rebuild(own, leaves, _share(layer.alpha, layer.rank / (stop - start)), own.weight_shape)


def _share(alpha: float, count: float) -> float:
    """``alpha / count``; of the neighbouring floats that give alpha again, the one that is written shortest.

    So an alpha of 0.1 comes back from its triple, which a division alone would make 0.10000000000000002.
    """
    near = alpha / count
    again = [share for share in (near, nextafter(near, -inf), nextafter(near, inf)) if share * count == alpha]
    return min(again, key=lambda share: len(repr(share)), default=near)


def _blocks(ups: Sequence[Tensor], pieces: Sequence[Pieces]) -> list[RowRange] | None:
    """The columns of each part, if every part has zeros (exactly +0.0) everywhere else.

    Where zeros within a block leave a choice, blocks of one size are preferred.
    """
    if all(up[0, -1] != 0 and up[-1, 0] != 0 for up in ups):
        return None  # the usual file: both corners are in use
    used = [_columns_in_use([rows_of(up, rows) for up in ups]) for rows in pieces]
    rank, busy = ups[0].shape[1], [bool(columns.any()) for columns in used]
    for sizes in _choices(used, busy, rank):
        blocks = list(pairwise(accumulate(sizes, initial=0)))
        if blocks[-1][1] == rank and all(_within(columns, block) for columns, block in zip(used, blocks, strict=True)):
            return blocks
    return None


def _choices(used: Sequence[Tensor], busy: Sequence[bool], rank: int) -> list[list[int]]:
    """Sizes of blocks to try: equal ones for all parts, for those in use, and just as many columns as are in use."""
    even = [[rank // len(busy)] * len(busy)]
    among_busy = [[rank // sum(busy) if here else 0 for here in busy]] if any(busy) else []
    return [*even, *among_busy, [int(columns.sum()) for columns in used]]


def _within(columns: Tensor, block: RowRange) -> bool:
    return not columns[: block[0]].any() and not columns[block[1] :].any()


def _columns_in_use(tensors: Sequence[Tensor]) -> Tensor:
    bits = [tensor.contiguous().view(getattr(torch, _BITS[tensor.dtype.itemsize])) for tensor in tensors]
    return torch.stack([(number != 0).any(0) for number in bits]).any(0)
