"""Some rows of the weight that a layer changes, as a layer of the same method: exact, or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lorica.adapters import AdapterLayer
from lorica.errors import FormatError
from lorica.formats.methods.layers import inner_of, leaves_of, method_of, rebuild
from lorica.formats.methods.method import BIAS
from lorica.models.spellings.part import RowRange

Pieces = Sequence[RowRange]


def take_rows(layer: AdapterLayer, pieces: Pieces) -> AdapterLayer:
    """The layer of some rows of the weight: leaves that have rows of it are cut, the others shared.

    Raises:
        FormatError: if the method cannot be cut there without changing it.
    """
    heights = heights_of(layer)
    leaves = leaves_of(layer)
    for leaf, height in heights.items():
        leaves[leaf] = rows_of(leaves[leaf], in_blocks(layer, pieces, height))
    return rebuild(layer, leaves, layer.alpha, (count_rows(pieces), *layer.weight_shape[1:]))


def heights_of(layer: AdapterLayer) -> dict[str, int]:
    """The leaves that are cut with the weight, each with the rows of the weight that one row of it stands for.

    Raises:
        FormatError: if there is no way to cut this layer.
    """
    method, inner = method_of(layer), inner_of(layer)
    if not method.can_be_cut:
        raise FormatError(f"a {layer.kind} layer cannot be cut into the rows of several modules.")
    if inner is not None:
        return {**heights_of(inner), **method.heights(layer)}
    heights = method.heights(layer)
    return {**heights, BIAS: 1} if BIAS in leaves_of(layer) else heights


def rows_of(tensor: Tensor, pieces: Pieces) -> Tensor:
    """Some rows of a tensor: a view if they stand together."""
    cut = [tensor[start:stop] for start, stop in pieces]
    return cut[0] if len(cut) == 1 else torch.cat(cut)


def put_rows(tensors: Mapping[str, Tensor], pieces: Mapping[str, Pieces], height: int) -> Tensor:
    """One tensor of several, each at its rows; ``height`` rows of the weight stand in one row of it.

    Raises:
        FormatError: if they do not have the rows, or are not of one shape otherwise.
    """
    like = next(iter(tensors.values()))
    rows = count_rows([rows for place in pieces.values() for rows in place])
    whole = like.new_zeros(rows // height, *like.shape[1:])
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


def in_blocks(layer: AdapterLayer, pieces: Pieces, height: int) -> Pieces:
    """Pieces counted in blocks of rows.

    Raises:
        FormatError: if a piece begins or ends within a block.
    """
    if any(edge % height for rows in pieces for edge in rows):
        edges = ", ".join(f"{start} to {stop}" for start, stop in pieces)
        raise FormatError(
            f"a {layer.kind} layer in blocks of {height} rows cannot be cut into the rows {edges} without changing it."
        )
    return [(start // height, stop // height) for start, stop in pieces]


def count_rows(pieces: Pieces) -> int:
    """The number of rows that some pieces have."""
    return sum(stop - start for start, stop in pieces)
