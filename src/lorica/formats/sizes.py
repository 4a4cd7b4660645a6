"""What the tensors of a module tell of the weight that it changes: by its outputs and inputs a base model is known."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lorica.errors import FormatError, ShapeError
from lorica.formats.methods.layers import Leaves
from lorica.formats.methods.recipes import build
from lorica.formats.places import Shape

_NOT_TENSORS = ("alpha", "scale", "reshape")


def size_of(tensors: Mapping[str, Tensor], leaves: Leaves) -> Shape | None:
    """Return the outputs and the inputs of the weight that a module changes, or None if its tensors make no layer.

    One number is the size of a norm; ``ANY`` stands for what the tensors of a method do not tell.

    Args:
        tensors: those of the file, by key.
        leaves: the module's keys by meaning.
    """
    if "lora.up" in leaves and "lora.down" in leaves:  # nearly all modules of all files
        up, down = tensors[leaves["lora.up"]].shape, tensors[leaves["lora.down"]].shape
        return (up[0], down[1]) if len(up) > 1 and len(down) > 1 else None
    if "norm.bias" in leaves:
        return tuple(tensors[leaves["norm.bias"]].shape)
    if "oft_v2.vectors" in leaves and tensors[leaves["oft_v2.vectors"]].shape[:1] == (1,):
        return None  # one block may turn all inputs, however many there are
    try:
        layer = build({leaf: tensors[key] for leaf, key in leaves.items() if leaf not in _NOT_TENSORS}, 1.0, None)
    except (FormatError, ShapeError):
        return None
    return layer.weight_shape[:2]
