"""The outputs and inputs of a module of a file, if its leaves tell at a glance."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lorica.formats.layers import Leaves
from lorica.formats.places import Shape


def size_of(tensors: Mapping[str, Tensor], leaves: Leaves) -> Shape | None:
    """Return the outputs and the inputs of the weight that a module changes, or None if that takes a closer look."""
    return (
        _of_lora(tensors, leaves)
        or _of_lokr(tensors, leaves)
        or _product(tensors, leaves, "loha.w1")
        or tuple(_shape(tensors, leaves, "full.diff"))
        or None
    )


def _shape(tensors: Mapping[str, Tensor], leaves: Leaves, leaf: str) -> Shape:
    return tensors[leaves[leaf]].shape if leaf in leaves else ()


def _of_lora(tensors: Mapping[str, Tensor], leaves: Leaves) -> Shape:
    up, down = _shape(tensors, leaves, "lora.up"), _shape(tensors, leaves, "lora.down")
    return (up[0], down[1]) if len(up) > 1 and len(down) > 1 else ()


def _of_lokr(tensors: Mapping[str, Tensor], leaves: Leaves) -> Shape:
    sizes = [_shape(tensors, leaves, whole) or _product(tensors, leaves, whole) for whole in ("lokr.w1", "lokr.w2")]
    return (sizes[0][0] * sizes[1][0], sizes[0][1] * sizes[1][1]) if all(len(size) > 1 for size in sizes) else ()


def _product(tensors: Mapping[str, Tensor], leaves: Leaves, whole: str) -> Shape:
    left, right = _shape(tensors, leaves, f"{whole}_a"), _shape(tensors, leaves, f"{whole}_b")
    return (left[0], right[1]) if min(len(left), len(right)) > 1 and left[1] == right[0] else ()
