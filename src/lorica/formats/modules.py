"""From the modules of a file to the layers of an adapter, with an account of every key.

Of modules that are alike the first is looked at closely and the others are made after its pattern: whether tensors make
a layer that fits, and which, depends on the kind of module, its alpha, and the shape of the model's weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lorica.adapters import AdapterLayer
from lorica.errors import FormatError
from lorica.formats import peft_bias
from lorica.formats.account import Account
from lorica.formats.dialect import Parsed
from lorica.formats.files import Stored
from lorica.formats.fused import split
from lorica.formats.kinds import Kinds
from lorica.formats.layers import TOLD, Leaves, fitted, make_layer, one_number, other_shape, twice
from lorica.formats.places import Place, Shape
from lorica.formats.recipes import recipe_for, with_alpha
from lorica.formats.widened import too_narrow

Layers = dict[str, AdapterLayer]


@dataclass(frozen=True, slots=True)
class Pattern:
    """What was made of a kind of module on one shape of weight.

    Args:
        rank: the rank of the layers.
        leaves: what they call their tensors, to the meanings in the file.
        layers: the alpha that is told (None stands for the rank) to the layer that was made.
    """

    rank: int
    leaves: Mapping[str, str]
    layers: dict[float | None, AdapterLayer]


class ModuleReader:
    """Makes the layers of one file.

    Args:
        stored: the content of the file.
        parsed: what its keys mean.
        account: what becomes of them.
    """

    def __init__(self, stored: Stored, parsed: Parsed, account: Account) -> None:
        self._stored = stored
        self._parsed = parsed
        self._account = account
        self._kinds = parsed.kinds or Kinds(stored, parsed.modules)
        self._shapes: Mapping[str, Mapping[str, Shape]] = parsed.target.components if parsed.target else {}
        self._patterns: dict[tuple[int, Shape | None], Pattern] = {}

    def read(self) -> dict[str, Layers]:
        """Return component to module path to layer; keys of which nothing comes are left in the account.

        Raises:
            FormatError: if tensors are not numbers that a layer can hold, or two modules are one of the model's.
            ShapeError: if the tensors of a module do not fit each other.
        """
        components: dict[str, Layers] = {}
        for name, leaves in self._parsed.modules.items():
            place = self._parsed.locate(name)
            if isinstance(place, str):
                self._account.leave_stranger(leaves.values(), name, place)
                continue
            layers = self._whole(name, leaves, place) if place.is_whole else self._parts(leaves, place)
            if isinstance(layers, str):
                self._account.leave(leaves.values(), layers)
                continue
            component = components.setdefault(place.component, {})
            for path, layer in layers.items():
                if path in component:
                    raise self._named_twice(place.component, path, leaves)
                component[path] = layer
            self._note(name, leaves, place)
        return components

    def _whole(self, name: str, leaves: Leaves, place: Place) -> Layers | str:
        """Return the layer of one module of the model, or the reason why there is none."""
        path, shapes = place.parts[0].path, self._shapes.get(place.component)
        shape = None if shapes is None else shapes[path]
        case = self._kinds.of[name], shape
        pattern = self._patterns.get(case)
        layer = pattern and self._like(pattern, leaves, place)
        if layer and self._parsed.revise(path, layer, shape) is layer:
            return {path: layer}
        layer = self._made(leaves, place, shape)
        if isinstance(layer, str):
            return layer
        revised = self._parsed.revise(path, layer, shape)
        if isinstance(revised, str):
            return revised
        fit = _fit({path: revised}, shapes)
        if isinstance(fit, str):
            return fit
        if fit[path] is layer:
            self._remember(case, leaves, place, layer)
        elif fit[path] is not revised:
            shapes_here = {key: tuple(self._stored.tensors[key].shape) for key in leaves.values()}
            self._account.spelling.shapes.update(shapes_here)
        return fit

    def _parts(self, leaves: Leaves, place: Place) -> Layers | str:
        """Return the layers, by path, of the modules that one of the file stands for, or why there are none."""
        shapes = self._shapes.get(place.component)
        shape = None if shapes is None else place.shape_in(shapes)
        layer = self._made(leaves, place, shape)
        if not isinstance(layer, str):
            layer = self._parsed.revise(place.parts[0].path, layer, shape)
        if isinstance(layer, str):
            return layer
        if shape and not layer.fits(shape):
            return _misfit(layer, shape, place.parts[0].path)
        try:
            return _fit(split(layer, place), shapes)
        except FormatError as error:
            return str(error)

    def _made(self, leaves: Leaves, place: Place, shape: Shape | None) -> AdapterLayer | str:
        """Return the layer that the tensors of a module make, or the reason why they make none."""
        stored = self._stored
        recipe = recipe_for(frozenset(leaves))
        if isinstance(recipe, str):
            return recipe
        layer = make_layer(stored, leaves, self._stored_alpha(leaves), shape)
        wrong = other_shape(stored, leaves, layer)
        if wrong:
            return wrong
        if "scale" in leaves:
            layer = with_alpha(layer, one_number(stored, leaves["scale"]) * layer.rank)
        elif "alpha" not in leaves:
            alpha = self._parsed.default_alpha(place.component, place.parts[0].path, layer.rank)
            layer = layer if alpha is None else with_alpha(layer, alpha)
        return peft_bias.with_scaled_bias(layer) if leaves.get("bias", "").endswith(peft_bias.LEAF) else layer

    def _like(self, pattern: Pattern, leaves: Leaves, place: Place) -> AdapterLayer | None:
        """Return the layer that a module makes after a pattern, or None if it has another alpha."""
        tensors = self._stored.tensors
        like = pattern.layers.get(self._told_alpha(leaves, place, pattern.rank))
        return like and like.twin({leaf: tensors[leaves[meaning]] for leaf, meaning in pattern.leaves.items()})

    def _remember(self, case: tuple[int, Shape | None], leaves: Leaves, place: Place, layer: AdapterLayer) -> None:
        """Take a layer as a pattern, if it is nothing but the module's tensors and the alpha that is told."""
        tensors = {id(self._stored.tensors[key]): meaning for meaning, key in leaves.items() if meaning != "alpha"}
        names = {name: tensors.pop(id(tensor), None) for name, tensor in layer.tensors.items()}
        meanings = {name: meaning for name, meaning in names.items() if meaning is not None}
        if not tensors and len(meanings) == len(names) and layer.kind != "dora":
            pattern = self._patterns.setdefault(case, Pattern(layer.rank, meanings, {}))
            pattern.layers[self._told_alpha(leaves, place, layer.rank)] = layer

    def _told_alpha(self, leaves: Leaves, place: Place, rank: int) -> float | None:
        """Return the alpha that a module that can be read or the configuration tells; None stands for the rank."""
        if "alpha" in leaves:
            return self._meant(self._stored.tensors[leaves["alpha"]].item(), leaves)
        return self._parsed.default_alpha(place.component, place.parts[0].path, rank)

    def _stored_alpha(self, leaves: Leaves) -> float | None:
        """Return the alpha that a module's own key holds; None stands for the rank."""
        if "scale" in leaves or "alpha" not in leaves:
            return None
        return self._meant(one_number(self._stored, leaves["alpha"]), leaves)

    def _meant(self, alpha: float, leaves: Leaves) -> float | None:
        return None if alpha == 0 and self._parsed.zero_is_rank and "oft.blocks" not in leaves else float(alpha)

    def _note(self, name: str, leaves: Leaves, place: Place) -> None:
        """Note that a module was used, and how the file spells it."""
        spelling, tensors = self._account.spelling, self._stored.tensors
        self._account.used.extend(leaves.values())
        spelling.places[name], spelling.leaves[name] = place, leaves
        if "magnitude" in leaves:
            spelling.shapes[leaves["magnitude"]] = tuple(tensors[leaves["magnitude"]].shape)
        for number in TOLD:
            if number in leaves:
                spelling.numbers[leaves[number]] = tensors[leaves[number]]

    def _named_twice(self, component: str, path: str, leaves: Leaves) -> FormatError:
        """Return the error for a module of the model that two of the file are."""
        spelling = self._account.spelling
        other = next(
            spelling.leaves[name]
            for name, place in spelling.places.items()
            if place.component == component and path in place.paths()
        )
        meaning = next((meaning for meaning in leaves if meaning in other), next(iter(leaves)))
        first = other.get(meaning) or next(iter(other.values()))
        what = f"{meaning.rpartition('.')[2]} of {component}.{path}"
        return twice(self._stored.source, first, leaves[meaning], what)


def _fit(layers: Layers, shapes: Mapping[str, Shape] | None) -> Layers | str:
    """Return the layers as the model's weights need them, or the reason why one does not fit."""
    if shapes is None:
        return layers
    for path, layer in layers.items():
        fit = fitted(layer, shapes[path])
        if fit is None:
            return _misfit(layer, shapes[path], path)
        layers[path] = fit
    return layers


def _misfit(layer: AdapterLayer, shape: Shape, path: str) -> str:
    advice = too_narrow(path, layer.weight_shape, shape)
    return f"it changes a weight of shape {layer.weight_shape}, but the model has {shape} there.{advice}"
