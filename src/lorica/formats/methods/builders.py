"""From what a file says of one module to its layer: one function for each way in which methods are built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isqrt, prod
from typing import Any, NamedTuple

from torch import Tensor

from lorica.adapters import KINDS, AdapterLayer, LoRA, Places, Residual
from lorica.errors import ShapeError

Shape = tuple[int, ...]


class Given(NamedTuple):
    """What a file says of one module.

    Args:
        tensors: leaf to tensor, without alpha and bias.
        alpha: the alpha; None stands for the rank.
        bias: the change of the bias, if there is one.
        shape: the shape of the weight, if it is known.
        axis: what a DoRA magnitude is of, if the file says so: ``output`` or ``input``.
    """

    tensors: Mapping[str, Tensor]
    alpha: float | None = None
    bias: Tensor | None = None
    shape: Shape | None = None
    axis: str | None = None

    def extras(self) -> dict[str, Any]:
        """Return the bias as a layer's constructor takes it."""
        return {} if self.bias is None else {"bias": self.bias}


Build = Callable[[Given], AdapterLayer]


def lora(given: Given) -> AdapterLayer:
    """Build a LoRA; of a convolution ``up`` may be stored as the matrix that it is."""
    down, up = given.tensors["down"], given.tensors["up"]
    if up.ndim == 2 < down.ndim:
        up = up.reshape(*up.shape, *[1] * (down.ndim - 2))
    return LoRA(down, up, given.alpha, **given.extras())


def residual(given: Given) -> AdapterLayer:
    """Build a low-rank layer with the numbers that it misses."""
    low = {leaf: tensor for leaf, tensor in given.tensors.items() if not leaf.startswith("bias_")}
    inner = (by_name("locon") if "mid" in low else lora)(given._replace(tensors=low))
    return with_residual(inner, given.tensors)


def table(given: Given) -> AdapterLayer:
    """Build the layer of an embedding table, whose tensors PEFT stores transposed."""
    if given.bias is not None:
        raise ShapeError(
            f"an embedding table has no bias to change, and there are {given.bias.numel()} numbers for one."
        )
    _check_dimensions(given, "table_down", 2)
    _check_dimensions(given, "table_up", 2)
    return LoRA(given.tensors["table_up"].T, given.tensors["table_down"].T, given.alpha)


def _check_dimensions(given: Given, leaf: str, dimensions: int) -> None:
    shape = tuple(given.tensors[leaf].shape)
    if len(shape) != dimensions:
        raise ShapeError(f"{leaf} has shape {shape}; expected {dimensions} dimension{'s' * (dimensions > 1)}.")


def by_name(kind: str) -> Build:
    """Build a layer whose constructor takes its leaves by name, and alpha."""
    return lambda given: KINDS[kind](**given.tensors, alpha=given.alpha, **given.extras())  # type: ignore[call-arg]


def with_shape(kind: str) -> Build:
    """Build a layer whose leaves may not say the shape of the weight."""

    def build(given: Given) -> AdapterLayer:
        return KINDS[kind](**given.tensors, alpha=given.alpha, shape=given.shape, **given.extras())  # type: ignore[call-arg]

    return build


def rotation(kind: str) -> Build:
    """Build a layer whose alpha is its constraint."""

    def build(given: Given) -> AdapterLayer:
        return KINDS[kind](**given.tensors, constraint=given.alpha or 0.0, **given.extras())  # type: ignore[call-arg]

    return build


def oft(given: Given) -> AdapterLayer:
    """Build OFT from blocks in one row, or from rotations, and BOFT from blocks in several rows."""
    blocks = given.tensors.get("blocks")
    return rotation("boft" if blocks is not None and blocks.ndim == 4 else "oft")(given)


def oft_v2(given: Given) -> AdapterLayer:
    """Build one whose inputs the vectors cover, or share one block of them."""
    _check_dimensions(given, "vectors", 2)
    vectors = given.tensors["vectors"]
    block = (1 + isqrt(1 + 8 * vectors.shape[-1])) // 2
    own, inputs = len(vectors) * block, None if given.shape is None else prod(given.shape[1:])
    shared = len(vectors) == 1 and inputs is not None and inputs > block
    settings = {"in_features": inputs if shared else own, "shared": shared, "scaled": "scaled" in given.tensors}
    return KINDS["oft_v2"](vectors, **settings, **given.extras())  # type: ignore[call-arg]


def ia3(given: Given) -> AdapterLayer:
    """Build one as LyCORIS stores it, with a switch for its axis."""
    told = given.tensors["on_input"]
    if told.numel() != 1:
        raise ShapeError(f"on_input has shape {tuple(told.shape)}; expected one number, 0 or 1.")
    on_input = bool(told.item())
    return KINDS["ia3"](given.tensors["scale"], on_input, **given.extras())  # type: ignore[call-arg]


def ia3_of_peft(given: Given) -> AdapterLayer:
    """Build one whose factors stand along the axis that they are of: ``(1, in)`` or ``(out, 1)``."""
    factors = given.tensors["vector"]
    return KINDS["ia3"](factors, factors.shape[:1] == (1,), is_factor=True, **given.extras())  # type: ignore[call-arg]


def vera(given: Given) -> AdapterLayer:
    """Build one from its own part of the shared matrices: the first columns and the first rows."""
    for leaf, dimensions in (("lambda_b", 1), ("lambda_d", 1), ("shared_a", 2), ("shared_b", 2)):
        _check_dimensions(given, leaf, dimensions)
    tensors = dict(given.tensors)
    tensors["shared_b"] = tensors["shared_b"][: len(tensors["lambda_b"])]
    if given.shape is not None:
        tensors["shared_a"] = tensors["shared_a"][:, : prod(given.shape[1:])]
    return KINDS["vera"](**tensors, **given.extras())  # type: ignore[call-arg]


def full(given: Given) -> AdapterLayer:
    """Build a difference; that of a weight with one dimension is a norm's."""
    return without_alpha("norm" if given.tensors["diff"].ndim == 1 else "full")(given)


def without_alpha(kind: str) -> Build:
    """Build a layer without an alpha."""
    return lambda given: KINDS[kind](**given.tensors, **given.extras())  # type: ignore[call-arg]


def with_magnitude(build: Build) -> Build:
    """Build a DoRA on what a function builds."""

    def build_dora(given: Given) -> AdapterLayer:
        tensors = {leaf: tensor for leaf, tensor in given.tensors.items() if leaf != "magnitude"}
        inner, magnitude = build(given._replace(tensors=tensors)), given.tensors["magnitude"]
        return KINDS["dora"](inner, magnitude, axis=given.axis)  # type: ignore[call-arg]

    return build_dora


def with_residual(inner: AdapterLayer, named: Mapping[str, Tensor]) -> AdapterLayer:
    """Return a layer with the numbers that it misses, which have the names of files."""
    return Residual(inner, named["bias_values"], Places(named["bias_indices"], named["bias_size"]))
