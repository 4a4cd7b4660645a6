"""From the modules of a file to the layers of an adapter, with an account of every key.

Of modules that are alike the first is looked at closely and the others are made after its pattern: whether tensors make
a layer that fits, and which, depends on the kind of module, its alpha, and the shape of the model's weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from lorica.adapters import AdapterLayer
from lorica.errors import FormatError
from lorica.formats.account import Account
from lorica.formats.dialects.dialect import Parsed, as_it_is
from lorica.formats.kinds import Kinds
from lorica.formats.methods import peft_bias
from lorica.formats.methods.fused import split
from lorica.formats.methods.layers import NUMBERS, Leaves, alpha_in, fitted, make_layer, one_number, other_shape, twice
from lorica.formats.methods.recipes import recipe_for, with_alpha
from lorica.formats.places import Place, Shape
from lorica.formats.storage.files import Stored
from lorica.formats.widened import too_narrow

Layers = dict[str, AdapterLayer]
Case = tuple[int, "Shape | None"]  # the kind of a module, and the shape of the weight that it is for


@dataclass(frozen=True, slots=True)
class Pattern:
    """What was made of a kind of module on one shape of weight.

    Args:
        rank: the rank of the layers.
        leaves: what they call their tensors, each with the meaning in the file.
        layers: the alpha as a file has it, or the configuration (None stands for the rank), to the layer that was made.
    """

    rank: int
    leaves: tuple[tuple[str, str], ...]
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
        self._patterns: dict[Case, Pattern] = {}

    def read(self) -> dict[str, Layers]:
        """Return component to module path to layer; keys of which nothing comes are left in the account.

        Raises:
            FormatError: if tensors are not numbers that a layer can hold, or two modules are one of the model's.
            ShapeError: if the tensors of a module do not fit each other.
        """
        locate, kinds, all_shapes = self._parsed.locate, self._kinds.of, self._shapes
        components: dict[str, Layers] = {}
        used: dict[str, Place] = {}
        for name, leaves in self._parsed.modules.items():
            place = locate(name)
            if isinstance(place, str):
                self._account.leave_stranger(leaves.values(), name, place)
                continue
            component, (part, *others) = place
            shapes = all_shapes.get(component)
            case = kinds[name], None if shapes is None else shapes[part.path]
            whole = not others and part.rows is None
            layer = self._like(case, leaves, place) if whole and case in self._patterns else None
            layers = {part.path: layer} if layer else self._new(case, leaves, place)
            if isinstance(layers, str):
                self._account.leave(leaves.values(), layers)
                continue
            home = components.setdefault(component, {})
            for path, layer in layers.items():
                if path in home:
                    raise self._named_twice(used, component, path, leaves)
                home[path] = layer
            used[name] = place
        self._note(used)
        return components

    def _like(self, case: Case, leaves: Leaves, place: Place) -> AdapterLayer | None:
        """Return the layer that a module of a known kind makes, or None if it has another alpha."""
        pattern = self._patterns[case]
        layer = pattern.layers.get(self._alpha(leaves, place, pattern.rank))
        if layer is None:
            return None
        tensors, own = self._stored.tensors, {}
        for leaf, meaning in pattern.leaves:
            own[leaf] = tensors[leaves[meaning]]
        layer = layer.twin(own)
        revise = self._parsed.revise
        return layer if revise is as_it_is or revise(place.parts[0].path, layer, case[1]) is layer else None

    def _new(self, case: Case, leaves: Leaves, place: Place) -> Layers | str:
        """Return the layers, by path, that a module makes when all of it is looked at, or why there are none."""
        return self._whole(case, leaves, place) if place.is_whole else self._parts(leaves, place)

    def _whole(self, case: Case, leaves: Leaves, place: Place) -> Layers | str:
        """Return the layer of one module of the model, or the reason why there is none."""
        path, shape = place.parts[0].path, case[1]
        layer = self._made(leaves, place, shape)
        if isinstance(layer, str):
            return layer
        revised = self._parsed.revise(path, layer, shape)
        if isinstance(revised, str):
            return revised
        fit = _fit({path: revised}, self._shapes.get(place.component))
        if isinstance(fit, str):
            return fit
        if fit[path] is not layer or not self._remember(case, leaves, place, layer):
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

    def _remember(self, case: Case, leaves: Leaves, place: Place, layer: AdapterLayer) -> bool:
        """Take a layer as a pattern and return true, if it is nothing but the module's tensors and the told alpha."""
        tensors = {id(self._stored.tensors[key]): meaning for meaning, key in leaves.items() if meaning != "alpha"}
        names = {name: tensors.pop(id(tensor), None) for name, tensor in layer.tensors.items()}
        meanings = tuple((name, meaning) for name, meaning in names.items() if meaning is not None)
        if tensors or len(meanings) < len(names) or layer.kind == "dora":
            return False
        pattern = self._patterns.setdefault(case, Pattern(layer.rank, meanings, {}))
        pattern.layers[self._alpha(leaves, place, layer.rank)] = layer
        return True

    def _alpha(self, leaves: Leaves, place: Place, rank: int) -> float | None:
        """Return the number that stands under a module's alpha, or else what the configuration tells."""
        key = leaves.get("alpha")
        if key is not None:
            return self._stored.tensors[key].item()
        return self._parsed.default_alpha(place.component, place.parts[0].path, rank)

    def _stored_alpha(self, leaves: Leaves) -> float | None:
        """Return the alpha that a module's own key holds; None stands for the rank."""
        if "scale" in leaves or "alpha" not in leaves:
            return None
        return self._meant(alpha_in(self._stored, leaves), leaves)

    def _meant(self, alpha: float, leaves: Leaves) -> float | None:
        return None if alpha == 0 and self._parsed.zero_is_rank and "oft.blocks" not in leaves else float(alpha)

    def _note(self, used: dict[str, Place]) -> None:
        """Note which modules were used, and how the file spells them."""
        spelling, tensors = self._account.spelling, self._stored.tensors
        modules = {name: self._parsed.modules[name] for name in used}
        self._account.used.extend(chain.from_iterable(map(Leaves.values, modules.values())))
        spelling.places, spelling.leaves = used, modules
        for leaves in modules.values():
            for number in NUMBERS:
                if number in leaves:
                    spelling.numbers[leaves[number]] = tensors[leaves[number]]
            if "magnitude" in leaves:
                spelling.shapes[leaves["magnitude"]] = tuple(tensors[leaves["magnitude"]].shape)

    def _named_twice(self, used: Mapping[str, Place], component: str, path: str, leaves: Leaves) -> FormatError:
        """Return the error for a module of the model that two of the file are."""
        other = next(
            self._parsed.modules[name]
            for name, place in used.items()
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
