"""Some rows of the weight that a layer changes, as a layer of the same method: exact, or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lorica.adapters import AdapterLayer
from lorica.errors import FormatError
from lorica.formats.methods.recipes import leaves_of, rebuild
from lorica.formats.places import Rows

Pieces = Sequence[Rows]
Heights = dict[str, int]  # leaf that is cut with the weight, to how many rows of the weight one of its own stands for


def take_rows(layer: AdapterLayer, pieces: Pieces) -> AdapterLayer:
    """Return the layer of some rows of the weight: leaves that have rows of it are cut, the others shared.

    Raises:
        FormatError: if the method cannot be cut there without changing it.
    """
    heights = heights_of(layer)
    leaves = leaves_of(layer)
    for leaf, height in heights.items():
        leaves[leaf] = rows_of(leaves[leaf], in_blocks(layer, pieces, height))
    return rebuild(layer, leaves, layer.alpha, (count_rows(pieces), *layer.weight_shape[1:]))


def heights_of(layer: AdapterLayer) -> Heights:
    """Return the leaves that must be cut when the weight is cut into rows.

    Raises:
        FormatError: if there is no way to cut this layer.
    """
    if layer.kind not in HEIGHTS:
        raise FormatError(f"a {layer.kind} layer cannot be cut into the rows of several modules.")
    heights = HEIGHTS[layer.kind](layer)
    return {**heights, "bias": 1} if "bias" in layer.tensors else heights


def rows_of(tensor: Tensor, pieces: Pieces) -> Tensor:
    """Return some rows of a tensor: a view if they stand together."""
    cut = [tensor[start:stop] for start, stop in pieces]
    return cut[0] if len(cut) == 1 else torch.cat(cut)


def put_rows(tensors: Mapping[str, Tensor], pieces: Mapping[str, Pieces], height: int) -> Tensor:
    """Return tensors at their rows of one; ``height`` rows of the weight stand in one row of it.

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
    """Return pieces counted in blocks of rows.

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
    """Return how many rows some pieces have."""
    return sum(stop - start for start, stop in pieces)


def _always(*leaves: str) -> Callable[[AdapterLayer], Heights]:
    return lambda _layer: dict.fromkeys(leaves, 1)


def _loha(layer: AdapterLayer) -> Heights:
    if "t1" in layer.tensors:
        raise FormatError("a LoHa layer with Tucker cores cannot be cut into the rows of several modules.")
    return {"loha.w1_a": 1, "loha.w2_a": 1}


def _lokr(layer: AdapterLayer) -> Heights:
    """A Kronecker product has all rows of ``w2`` for each row of ``w1``."""
    tensors = layer.tensors
    height = tensors["w2"].shape[0] if "w2" in tensors else tensors["w2_a"].shape["t2" in tensors]
    return {"lokr.w1" if "w1" in tensors else "lokr.w1_a": height}


def _oft(layer: AdapterLayer) -> Heights:
    stored = "rotations" if "rotations" in layer.tensors else "blocks"
    if layer.alpha and stored == "blocks":
        raise FormatError("an OFT layer whose blocks share one constraint cannot be cut into several modules.")
    heights = {f"oft.{stored}": layer.rank}
    return {**heights, "oft.rescale": 1} if "rescale" in layer.tensors else heights


def _dora(layer: AdapterLayer) -> Heights:
    """The norm of a row needs that row only; the norm of a column needs all rows."""
    magnitude = layer.tensors["magnitude"]
    if magnitude.ndim > 1 and magnitude.shape[0] == 1 != layer.weight_shape[0]:
        raise FormatError("a DoRA layer with magnitudes of columns cannot be cut into the rows of several modules.")
    return {**heights_of(layer.inner), "magnitude": 1}  # type: ignore[attr-defined]


def _ia3(layer: AdapterLayer) -> Heights:
    return {} if layer.on_input else {"ia3.scale": 1}  # type: ignore[attr-defined]


HEIGHTS: dict[str, Callable[[AdapterLayer], Heights]] = {
    "lora": _always("lora.up"),
    "locon": _always("lora.up"),
    "loha": _loha,
    "lokr": _lokr,
    "glora": _always("glora.b1"),
    "full": _always("full.diff"),
    "set_weight": _always("set_weight.weight"),
    "norm": _always("norm.diff"),
    "bias": _always(),
    "oft": _oft,
    "oft_v2": _always(),
    "ia3": _ia3,
    "dora": _dora,
}
