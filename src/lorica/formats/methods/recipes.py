"""Which method the leaves of a module make, and what builds its layer: one row for each pattern of leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from lorica.adapters import KINDS, AdapterLayer, Places
from lorica.errors import FormatError
from lorica.formats.methods import builders
from lorica.formats.methods.builders import Build, Given
from lorica.formats.methods.leaves import FOREIGN, SHARED, as_written

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A method whose layer a set of leaves makes.

    Args:
        kind: the layer's kind, a name in ``KINDS``.
        needs: the leaves that must be there.
        may: those that may.
        build: from what a file says to the layer.
    """

    kind: str
    needs: frozenset[str]
    may: frozenset[str]
    build: Build

    def takes(self, leaves: frozenset[str]) -> bool:
        """Tell whether the leaves are those of this method."""
        return self.needs <= leaves <= self.needs | self.may


def build(
    leaves: Mapping[str, Tensor], alpha: float | None, shape: Shape | None, axis: str | None = None
) -> AdapterLayer:
    """Return the layer that the leaves of a module make.

    Args:
        leaves: meaning to tensor, without the alpha.
        alpha: the alpha; None stands for the rank.
        shape: the shape of the weight, if it is known.
        axis: what a DoRA magnitude is of, if the file says so.

    Raises:
        FormatError: if they make none.
        ShapeError: if they do not fit each other.
    """
    recipe = recipe_for(frozenset(leaves))
    if isinstance(recipe, str):
        raise FormatError(recipe)
    tensors = {meaning.partition(".")[2] or meaning: tensor for meaning, tensor in leaves.items() if meaning != "bias"}
    return recipe.build(Given(tensors, alpha, leaves.get("bias"), shape, axis))


def leaves_of(layer: AdapterLayer) -> dict[str, Tensor]:
    """Return the leaves of a layer by their meaning, without the alpha: what :func:`build` takes."""
    if layer.kind == "residual":
        return {**leaves_of(layer.inner), **_leaves_of_residual(layer)}  # type: ignore[attr-defined]
    inner = layer.inner if layer.kind == "dora" else layer  # type: ignore[attr-defined]
    method = _METHOD_OF.get(inner.kind, inner.kind)
    shared = () if method == "norm" else ("magnitude", "bias")
    leaves = {name if name in shared else f"{method}.{name}": tensor for name, tensor in layer.tensors.items()}
    for flag in _FLAGS.get(inner.kind, ()):
        leaves[f"{method}.{flag}"] = torch.tensor(float(getattr(inner, flag)), dtype=torch.float32, device="cpu")
    return leaves


def rebuild(layer: AdapterLayer, leaves: Mapping[str, Tensor], alpha: float, shape: Shape) -> AdapterLayer:
    """Return a layer of the same method and settings, of other tensors.

    Args:
        layer: the layer as it is.
        leaves: its leaves by meaning, as :func:`leaves_of` gives them, changed.
        alpha: the alpha.
        shape: the shape of the weight that the new layer changes.
    """
    named = {meaning.rpartition(".")[2]: tensor for meaning, tensor in leaves.items()}
    if layer.kind == "dora":
        inner: AdapterLayer = layer.inner  # type: ignore[attr-defined]
        again = rebuild(inner, {leaf: tensor for leaf, tensor in leaves.items() if leaf != "magnitude"}, alpha, shape)
        return KINDS["dora"](again, named["magnitude"], axis=layer.axis)  # type: ignore[call-arg, attr-defined]
    if layer.kind == "residual":
        low = {leaf: tensor for leaf, tensor in leaves.items() if "bias_" not in leaf}
        return builders.with_residual(rebuild(layer.inner, low, alpha, shape), named)  # type: ignore[attr-defined]
    settings = layer.settings
    if settings.get("shape") is not None:
        settings["shape"] = shape
    if layer.kind not in WITHOUT_ALPHA:
        settings["constraint" if layer.kind in ("oft", "boft") else "alpha"] = alpha
    return type(layer)(**{name: named[name] for name in layer.tensors}, **settings)


def _leaves_of_residual(layer: AdapterLayer) -> dict[str, Tensor]:
    places: Places = layer.places  # type: ignore[attr-defined]
    leaves = {"indices": places.indices, "values": layer.tensors["values"], "size": places.size}
    return {f"lora.bias_{leaf}": tensor for leaf, tensor in leaves.items()}


def alike(one: AdapterLayer, other: AdapterLayer) -> bool:
    """Tell whether two layers are of one method, settings, alpha and shapes of tensors."""
    if one.kind == other.kind == "dora":
        inner: tuple[AdapterLayer, AdapterLayer] = one.inner, other.inner  # type: ignore[attr-defined]
        return one.axis == other.axis and alike(*inner)  # type: ignore[attr-defined]
    shapes = [{name: tuple(tensor.shape) for name, tensor in layer.tensors.items()} for layer in (one, other)]
    same_alpha = one.kind in WITHOUT_ALPHA or one.alpha == other.alpha
    return one.kind == other.kind and one.settings == other.settings and same_alpha and shapes[0] == shapes[1]


def untold_alpha(layer: AdapterLayer) -> float:
    """Return the alpha of a layer of whose alpha a file says nothing: the rank, and no constraint for a rotation."""
    return 0.0 if layer.kind in ("oft", "boft") else float(layer.rank)


def with_alpha(layer: AdapterLayer, alpha: float) -> AdapterLayer:
    """Return the layer with another alpha."""
    return layer if alpha == layer.alpha else rebuild(layer, leaves_of(layer), alpha, layer.weight_shape)


@lru_cache(maxsize=256)
def recipe_for(meanings: frozenset[str]) -> Recipe | str:
    """Return the method that the leaves of a module make, or the reason why they make none.

    Args:
        meanings: what the leaves mean, such as ``lora.down`` and ``alpha``.
    """
    unknown = sorted(meaning for meaning in meanings - set(SHARED) if not _is_of_a_method(meaning))
    if unknown:
        return _reason_unknown(unknown[0])
    own = [meaning.partition(".") for meaning in sorted(meanings) if meaning not in SHARED]
    methods = sorted({method for method, _, _ in own})
    if len(methods) > 1:
        return f"its module holds the leaves of several methods ({' and '.join(methods)}); a module has one."
    method = methods[0] if methods else "bias"
    leaves = frozenset(leaf for _, _, leaf in own)
    return _choose(method, leaves, meanings)


def _choose(method: str, leaves: frozenset[str], meanings: frozenset[str]) -> Recipe | str:
    recipes = RECIPES[method]
    chosen = next((recipe for recipe in recipes if recipe.takes(leaves)), None)
    if chosen is None or (method == "bias" and "bias" not in meanings):
        return _reason_incomplete(method, recipes, leaves)
    if chosen.kind not in KINDS:
        return f"its module holds a {chosen.kind} layer, which cannot be read yet; the rest of it would be wrong."
    if {"norm.bias", "bias"} <= meanings:
        return "its module holds the change of its bias twice, once as a norm's (b_norm)."
    if "magnitude" not in meanings:
        return chosen
    if method not in WITH_MAGNITUDE or chosen.kind == "residual":
        return f"its module holds a DoRA magnitude, which a {chosen.kind} layer has none of."
    return replace(chosen, kind="dora", build=builders.with_magnitude(chosen.build))


def _is_of_a_method(meaning: str) -> bool:
    method, dot, _ = meaning.partition(".")
    return bool(dot) and method in RECIPES


def _reason_unknown(meaning: str) -> str:
    leaf = as_written(meaning)
    known = f", which is of {FOREIGN[leaf]} and cannot be read" if leaf in FOREIGN else ", which is not known here"
    return f"its module holds {leaf!r}{known}; without it the rest of the module would be wrong."


def _reason_incomplete(method: str, recipes: tuple[Recipe, ...], leaves: frozenset[str]) -> str:
    lacking = min((sorted(recipe.needs - leaves) for recipe in recipes), key=len)
    if lacking:
        return f"its module has no {' and no '.join(lacking)} tensor."
    return f"its module holds {', '.join(sorted(leaves)) or 'no tensors'}, which make no {method} layer."


def _recipe(kind: str, build: Build, needs: str, may: str = "") -> Recipe:
    return Recipe(kind, frozenset(needs.split()), frozenset(may.split()), build)


# The method of the leaves to the layers that they may make.
RECIPES: dict[str, tuple[Recipe, ...]] = {
    "lora": (
        _recipe("lora", builders.lora, "down up"),
        _recipe("locon", builders.by_name("locon"), "down up mid"),
        _recipe("lora", builders.table, "table_down table_up"),
        _recipe("residual", builders.residual, "down up bias_indices bias_values bias_size", "mid"),
    ),
    "loha": (_recipe("loha", builders.with_shape("loha"), "w1_a w1_b w2_a w2_b", "t1 t2"),),
    "lokr": (
        _recipe("lokr", builders.with_shape("lokr"), "w1 w2"),
        _recipe("lokr", builders.with_shape("lokr"), "w1 w2_a w2_b", "t2"),
        _recipe("lokr", builders.with_shape("lokr"), "w1_a w1_b w2"),
        _recipe("lokr", builders.with_shape("lokr"), "w1_a w1_b w2_a w2_b", "t2"),
    ),
    "glora": (_recipe("glora", builders.by_name("glora"), "a1 a2 b1 b2", "mid"),),
    "ia3": (_recipe("ia3", builders.ia3, "scale on_input"), _recipe("ia3", builders.ia3_of_peft, "vector")),
    "oft": (_recipe("oft", builders.oft, "blocks", "rescale"), _recipe("oft", builders.oft, "rotations", "rescale")),
    "oft_v2": (_recipe("oft_v2", builders.oft_v2, "vectors", "scaled"),),
    "full": (_recipe("full", builders.full, "diff"),),
    "set_weight": (_recipe("set_weight", builders.without_alpha("set_weight"), "weight"),),
    "vera": (_recipe("vera", builders.vera, "lambda_b lambda_d shared_a shared_b"),),
    "norm": (
        _recipe("norm", builders.without_alpha("norm"), "diff", "bias"),
        _recipe("bias", builders.without_alpha("bias"), "bias"),
    ),
    "bias": (_recipe("bias", builders.without_alpha("bias"), ""),),
}
WITH_MAGNITUDE = ("lora", "loha", "lokr")
_METHOD_OF = {"locon": "lora", "boft": "oft"}
_FLAGS = {"ia3": ("on_input",), "oft_v2": ("scaled",)}  # settings of a layer that a file holds as a tensor
WITHOUT_ALPHA = ("full", "set_weight", "norm", "bias", "ia3", "oft_v2", "vera")  # kinds whose strength needs none
