"""LoKr in files: ``lokr_w1`` and its like, in LyCORIS and PEFT alike.

PEFT makes the factors of a weight by three settings for all modules and a rank for each. It takes a size apart by
``decompose_factor``: that times the rest where it divides the size, else the largest divisor up to it and up to the
square root. A factor is whole where the rank is at least half its longer side, and the first one also wherever
``decompose_both`` is not set.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import isqrt, prod
from typing import cast

from lorica.adapters import AdapterLayer, LoKr
from lorica.formats.methods.method import Leaf, Method
from lorica.formats.methods.peft import CONV1D, MOST_DIMENSIONS, PeftModule, PeftPlan, refuse_biases, scaled
from lorica.formats.peft_config import Patterns, make_config
from lorica.models.clip import spellings
from lorica.models.folding import Shape

Sides = tuple[int, int, int, int]  # outputs, inputs, and the rows and columns of the first factor


class _LoKrMethod(Method[LoKr]):
    def alpha_counts(self, meanings: frozenset[str]) -> bool:
        # Trainers store 9999999999 beside two whole factors, which overflows in half precision.
        return not {"lokr.w1", "lokr.w2"} <= meanings

    def heights(self, layer: LoKr) -> dict[str, int]:
        tensors = layer.tensors  # a Kronecker product has all rows of ``w2`` for each row of ``w1``
        height = tensors["w2"].shape[0] if "w2" in tensors else tensors["w2_a"].shape["t2" in tensors]
        return {"lokr.w1" if "w1" in tensors else "lokr.w1_a": height}

    def from_peft(self, layer: LoKr, told: PeftModule) -> AdapterLayer | str:
        if "r" not in told.config:
            return layer
        if "w2" in layer.tensors and layer.tensors["w2"].ndim == CONV1D:
            return (
                "it is a LoKr of a Conv1d with a whole w2, whose axes PEFT mixes up: what it trained is no such layer."
            )
        if not {"w1", "w2"} <= layer.tensors.keys():
            return layer
        patterns = Patterns(cast("Mapping[str, float]", told.config.get("rank_pattern") or {}))
        exceptions = (patterns.get(path) for path in spellings(told.path))
        rank = next((value for value in exceptions if value is not None), told.config["r"])
        scaling = layer.alpha / float(rank)
        if scaling == 1:
            return layer
        # PEFT scales two whole factors too, where our formula, LyCORIS' own, does not: put into the smaller one.
        tensors = {**layer.tensors, "w1": scaled(layer.tensors["w1"], scaling)}
        return self.rebuild(layer, tensors, layer.rank, layer.weight_shape)

    def peft_plan(self, layers: Mapping[str, LoKr], shapes: Mapping[str, Shape]) -> PeftPlan:
        del shapes
        both = any("w1_a" in layer.tensors for layer in layers.values())
        cores = any("t2" in layer.tensors for layer in layers.values())
        factor = _common_factor({_sides(layer) for layer in layers.values()})
        ranks: dict[str, int] = {}
        refused: dict[str, str] = {}
        for path, layer in layers.items():
            rank = _rank(layer)
            if isinstance(rank, str):
                refused[path] = rank
            elif factor is None:
                refused[path] = "no decompose_factor, of which PEFT has one for all modules, makes the factors of all."
            else:
                ranks[path] = rank
                reason = _misfit(layer, _made(layer.weight_shape, rank, _split(layer), both=both, cores=cores))
                refused.update({path: reason} if reason else {})
        if refused:
            return PeftPlan(refused={**refused, **refuse_biases(layers)})
        config = make_config(layers, ranks)
        config |= {"decompose_both": both, "decompose_factor": factor, "use_effective_conv2d": cores}
        return PeftPlan({"alpha": config.pop("lora_alpha"), **config}, refused=refuse_biases(layers))


def _rank(layer: LoKr) -> int | str:
    """The rank that PEFT must have, or why there is none.

    Of two whole factors it is their alpha: PEFT multiplies by alpha / rank there too, where nothing must be.
    """
    ranks = {len(layer.tensors[name]) for name in ("w1_b", "w2_b") if name in layer.tensors}
    if len(ranks) > 1:
        return f"its factors have several ranks, {' and '.join(map(str, sorted(ranks)))}, and PEFT's have one."
    if ranks:
        return ranks.pop()
    if layer.alpha < 1 or not layer.alpha.is_integer():
        return (
            f"its factors are whole and its alpha is {layer.alpha:g}, which in PEFT must be its rank, a whole number."
        )
    return int(layer.alpha)


def _misfit(layer: LoKr, made: Mapping[str, Shape]) -> str | None:
    own = {name: tuple(tensor.shape) for name, tensor in layer.tensors.items() if name != "bias"}
    if len(layer.weight_shape) > MOST_DIMENSIONS or (len(layer.weight_shape) == CONV1D and "w2_b" not in own):
        return f"it changes a weight of shape {layer.weight_shape}, for which PEFT has no such LoKr."
    if own == made:
        return None
    return f"its tensors are {_listed(own)}, and PEFT makes {_listed(made)} for this weight."


def _listed(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items()))


def _made(weight: Shape, rank: int, first: tuple[int, int], *, both: bool, cores: bool) -> dict[str, Shape]:
    """The shapes of the tensors that PEFT makes for a weight.

    Args:
        weight: its shape.
        rank: the rank.
        first: rows and columns of the first factor.
        both: ``decompose_both``.
        cores: ``use_effective_conv2d``.
    """
    (rows, columns), kernel = first, weight[2:]
    below, beside = weight[0] // rows, weight[1] // columns
    factored = both and 2 * rank < max(first)
    one: dict[str, Shape] = {"w1_a": (rows, rank), "w1_b": (rank, columns)} if factored else {"w1": first}
    if 2 * rank >= max(below, beside):
        return {**one, "w2": (below, beside, *kernel)}
    if cores and prod(kernel) > 1:
        return {**one, "w2_a": (rank, below), "w2_b": (rank, beside), "t2": (rank, rank, *kernel)}
    return {**one, "w2_a": (below, rank), "w2_b": (rank, beside * prod(kernel))}


def _sides(layer: LoKr) -> Sides:
    out, width, *_ = layer.weight_shape
    return (out, width, *_split(layer))


def _split(layer: LoKr) -> tuple[int, int]:
    """Rows and columns of the first factor."""
    found = layer.tensors
    if "w1" in found:
        return found["w1"].shape[0], found["w1"].shape[1]
    return found["w1_a"].shape[0], found["w1_b"].shape[1]


def _common_factor(sides: Iterable[Sides]) -> int | None:
    """The ``decompose_factor`` that gives every module its first factor, or None if there is none."""
    wanted = {(out, rows) for out, _, rows, _ in sides} | {(width, columns) for _, width, _, columns in sides}
    largest = max(size for size, _ in wanted)
    tried = (-1, *range(1, largest + 2))
    return next((factor for factor in tried if all(taken(size, factor) == own for size, own in wanted)), None)


def taken(size: int, factor: int) -> int:
    """The first of the two numbers into which PEFT takes a size apart."""
    if factor > 0 and size % factor == 0:
        return factor
    divisors = _divisors(size)
    return divisors[-1 if factor < 0 else bisect_right(divisors, factor) - 1]


@lru_cache(maxsize=512)
def _divisors(size: int) -> list[int]:
    """The divisors of a size up to its square root."""
    return [number for number in range(1, isqrt(size) + 1) if size % number == 0]


LOKR = _LoKrMethod(
    layer=LoKr,
    group="lokr",
    leaves=tuple(
        Leaf(name, f"lokr_{name}", f"lokr_{name}") for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
    ),
    patterns=("w1 w2", "w1 w2_a w2_b t2?", "w1_a w1_b w2", "w1_a w1_b w2_a w2_b t2?"),
    takes_shape=True,
    with_magnitude=True,
    peft_type="LOKR",
    peft_options=True,
)
