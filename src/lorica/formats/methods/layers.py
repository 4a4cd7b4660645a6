"""From the named tensors of one module to its adapter layer, and the checks that every format shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite

from torch import Tensor

from lorica.adapters import AdapterLayer
from lorica.errors import FormatError, ShapeError
from lorica.formats.methods.recipes import build, leaves_of, rebuild
from lorica.formats.storage.files import Stored

FLOATS = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")
TOLD = ("alpha", "scale", "reshape")  # leaves that say something of a layer and are no part of it
NUMBERS = (*TOLD, "ia3.on_input", "oft_v2.scaled")  # leaves that may be of any dtype, and are kept as they are
WHOLE = ("lora.bias_indices", "lora.bias_size")  # leaves of whole numbers
PEFT_MAGNITUDE = "lora_magnitude_vector"  # always of outputs, also where its shape could be of inputs
Leaves = dict[str, str]  # meaning (lora.down, alpha, ...) to the key that holds it


def group(split_keys: Iterable[tuple[str, str, str]], source: str) -> dict[str, Leaves]:
    """Return the keys of each module by its name in the file.

    Args:
        split_keys: key, module's name, meaning.
        source: what to call the file in messages.

    Raises:
        FormatError: if two keys are the same tensor of the same module in two spellings.
    """
    modules: dict[str, Leaves] = {}
    for key, name, meaning in split_keys:
        leaves = modules.get(name)
        if leaves is None:
            modules[name] = {meaning: key}
        elif leaves.setdefault(meaning, key) != key:
            raise twice(source, leaves[meaning], key, f"{meaning.rpartition('.')[2]} of {name}")
    return modules


def twice(source: str, first: str, second: str, what: str) -> FormatError:
    """Return the error for two keys that mean one thing."""
    return FormatError(f"{source}: {first!r} and {second!r} are both the {what}; a file may hold it once.")


def make_layer(stored: Stored, leaves: Leaves, alpha: float | None, shape: tuple[int, ...] | None) -> AdapterLayer:
    """Return the layer that the tensors of one module make.

    Raises:
        FormatError: if they are not numbers that a layer can hold.
        ShapeError: if they do not fit each other.
    """
    check_numbers(stored, leaves)
    tensors = {meaning: stored.tensors[key] for meaning, key in leaves.items() if meaning not in TOLD}
    axis = "output" if PEFT_MAGNITUDE in leaves.get("magnitude", "") else None
    try:
        return build(tensors, alpha, shape, axis)
    except ShapeError as error:
        keys = " and ".join(leaves[meaning] for meaning in tensors)
        raise ShapeError(f"{stored.source}: {keys}: {error}") from error


def alpha_in(stored: Stored, leaves: Leaves) -> float:
    """Return the alpha that a module's own key holds.

    That of a LoKr of two whole factors may be infinite: it means nothing, and trainers that store 9999999999 overflow
    in half precision.

    Raises:
        FormatError: if it is not one number, or not finite where it counts.
    """
    alpha = one_number(stored, leaves["alpha"])
    if isfinite(alpha) or (alpha > 0 and {"lokr.w1", "lokr.w2"} <= leaves.keys()):
        return alpha
    raise FormatError(f"{stored.source}: {leaves['alpha']!r} is {alpha}; expected a number, such as the rank.")


def one_number(stored: Stored, key: str) -> float:
    """Return the number that a key holds.

    Raises:
        FormatError: if it is not one number.
    """
    tensor = stored.tensors[key]
    if tensor.numel() != 1 or tensor.is_complex():
        raise FormatError(
            f"{stored.source}: {key!r} has shape {tuple(tensor.shape)} of {tensor.dtype}; expected one number."
        )
    return float(tensor.item())


def other_shape(stored: Stored, leaves: Leaves, layer: AdapterLayer) -> str | None:
    """Return what is wrong if a module is for a weight that was padded to another shape than its tensors change."""
    key = leaves.get("reshape")
    if key is None:
        return None
    told = tuple(stored.tensors[key].flatten().tolist())
    if told == layer.weight_shape:
        return None
    return f"its reshape_weight is {told}, but its other tensors change a weight of shape {layer.weight_shape}."


def fitted(layer: AdapterLayer, shape: tuple[int, ...]) -> AdapterLayer | None:
    """Return the layer for a weight of the given shape, or None if it cannot be.

    A Linear and a 1 x 1 convolution hold the same numbers, and some models have the one where their files have the
    other (``proj_in`` of Stable Diffusion 2): trailing ones are added or taken away.
    """
    if layer.fits(shape):
        return layer
    if _bare(layer.weight_shape) != _bare(shape):
        return None
    ones = [1] * (len(shape) - 2)
    own = leaves_of(layer)
    leaves = {leaf: tensor if leaf in WHOLE else _with_ones(tensor, ones) for leaf, tensor in own.items()}
    again = rebuild(layer, leaves, layer.alpha, shape)
    return again if again.fits(shape) else None


def check_finite(stored: Stored, modules: Mapping[str, Leaves]) -> None:
    """Refuse tensors that hold NaN or infinity; alphas are looked at where they are used, or mean nothing.

    One sum over each block of the file: an infinite or undefined element makes the sum so too. A half-precision sum may
    also overflow, so after a suspect sum every tensor is looked at.

    Raises:
        FormatError: naming the first such key.
    """
    if stored.blocks and all(_sums_up(block) for block in stored.blocks):
        return
    alphas = {leaves["alpha"] for leaves in modules.values() if "alpha" in leaves}
    for key, tensor in stored.tensors.items():
        if key in alphas or _sums_up(tensor):
            continue
        finite = _wide(tensor).isfinite()
        if not finite.all():
            raise FormatError(
                f"{stored.source}: {key!r} holds {int((~finite).sum())} values of {tensor.numel()} that are "
                "NaN or infinite; the training that made it diverged, or the file is broken."
            )


def check_numbers(stored: Stored, leaves: Leaves) -> None:
    """Refuse a module whose tensors are not of floating-point numbers; a single number may be a whole one.

    Raises:
        FormatError: naming the key.
    """
    for meaning, key in leaves.items():
        tensor = stored.tensors[key]
        if meaning not in (*NUMBERS, *WHOLE) and not tensor.is_floating_point():
            raise FormatError(f"{stored.source}: {key!r} holds {tensor.dtype} numbers. Readable: {', '.join(FLOATS)}.")


def _with_ones(tensor: Tensor, ones: list[int]) -> Tensor:
    return tensor.reshape(*tensor.shape[:2], *ones) if tensor.ndim > 1 else tensor


def _sums_up(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(_wide(tensor).sum().isfinite())


def _wide(tensor: Tensor) -> Tensor:
    """Return the numbers in a dtype that can be summed, which 8-bit floats cannot."""
    return tensor if tensor.element_size() > 1 else tensor.float()


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a weight's shape without its kernel, if that is all ones."""
    return shape[:2] if all(size == 1 for size in shape[2:]) else shape
