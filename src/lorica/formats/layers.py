"""From the named tensors of one module to its adapter layer, and the checks that every format shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lorica.adapters import AdapterLayer, LoCon, LoRA
from lorica.errors import FormatError, ShapeError
from lorica.formats.files import Stored

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Leaves = dict[str, str]  # leaf (down, up, mid, alpha) to the key that holds it


class Found(NamedTuple):
    """A key whose meaning is known: which tensor (``leaf``) of which module it is."""

    key: str
    component: str
    path: str
    leaf: str


def group(found: Iterable[Found], source: str) -> dict[tuple[str, str], Leaves]:
    """Return the keys of each module, by component and path.

    Raises:
        FormatError: if two keys are the same tensor of the same module in two spellings.
    """
    modules: dict[tuple[str, str], Leaves] = {}
    for key, component, path, leaf in found:
        leaves = modules.setdefault((component, path), {})
        if leaf in leaves:
            raise FormatError(
                f"{source}: {leaves[leaf]!r} and {key!r} are both the {leaf} of {component}.{path}; "
                "a file may hold it once."
            )
        leaves[leaf] = key
    return modules


def build(tensors: Mapping[str, Tensor], leaves: Leaves, alpha: float | None, source: str) -> AdapterLayer:
    """Return the layer that the tensors of one module make.

    Raises:
        ShapeError: if they do not fit each other.
    """
    down, up = tensors[leaves["down"]], tensors[leaves["up"]]
    try:
        if "mid" in leaves:
            return LoCon(down, tensors[leaves["mid"]], up, alpha)
        return LoRA(down, up, alpha)
    except ShapeError as error:
        raise ShapeError(f"{source}: {leaves['down']} and {leaves['up']}: {error}") from error


def missing_half(leaves: Leaves) -> str | None:
    """Return what a module lacks to be a layer, or None if it is whole."""
    lacking = [leaf for leaf in ("down", "up") if leaf not in leaves]
    return f"its module has no {' and no '.join(lacking)} tensor." if lacking else None


def fitted(layer: AdapterLayer, shape: tuple[int, ...]) -> AdapterLayer | None:
    """Return the layer for a weight of the given shape, or None if it cannot be.

    A Linear and a 1 x 1 convolution hold the same numbers, and some models have the one where their files have the
    other (``proj_in`` of Stable Diffusion 2): trailing ones are added or taken away.
    """
    if layer.weight_shape == shape:
        return layer
    if not isinstance(layer, LoRA) or _bare(layer.weight_shape) != _bare(shape):
        return None
    return layer.map(lambda tensor: tensor.reshape(*tensor.shape[:2], *[1] * (len(shape) - 2)))


def check_finite(stored: Stored) -> None:
    """Refuse tensors that hold NaN or infinity.

    One sum over each block of the file: an infinite or undefined element makes the sum so too. A half-precision sum may
    also overflow, so after a suspect sum every tensor is looked at.

    Raises:
        FormatError: naming the first such key.
    """
    if stored.blocks and all(_sums_up(block) for block in stored.blocks):
        return
    for key, tensor in stored.tensors.items():
        if not _sums_up(tensor) and not tensor.isfinite().all():
            raise FormatError(
                f"{stored.source}: {key!r} holds {int((~tensor.isfinite()).sum())} values of {tensor.numel()} that are "
                "NaN or infinite; the training that made it diverged, or the file is broken."
            )


def check_numbers(stored: Stored, leaves: Leaves) -> None:
    """Refuse a module whose tensors are not of floating-point numbers; an alpha may be a whole number.

    Raises:
        FormatError: naming the key.
    """
    for leaf, key in leaves.items():
        tensor = stored.tensors[key]
        if leaf != "alpha" and tensor.dtype not in FLOATS:
            raise FormatError(
                f"{stored.source}: {key!r} holds {tensor.dtype} numbers. Readable: {', '.join(map(str, FLOATS))}."
            )


def _sums_up(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    wide = tensor if tensor.dtype in FLOATS else tensor.float()  # 8-bit floats cannot be summed
    return bool(wide.sum().isfinite())


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a weight's shape without its kernel, if that is all ones."""
    return shape[:2] if all(size == 1 for size in shape[2:]) else shape
