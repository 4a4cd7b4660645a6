"""From the modules of a file to the layers of an adapter, with an account of every key.

Of modules that are alike the first is looked at closely and the others are made after its pattern: whether tensors make
a layer that fits, and which, depends on the kind of module, its alpha, and the shape of the model's weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from math import isfinite

from lorica.adapters import AdapterLayer
from lorica.errors import FormatError, ShapeError
from lorica.formats.account import Account
from lorica.formats.base_model import too_narrow
from lorica.formats.dialects.dialect import Parsed, as_it_is
from lorica.formats.keys_to_modules import Leaves, twice
from lorica.formats.methods.fused import split
from lorica.formats.methods.layers import build, inner_of, leaves_of, methods_for, rebuild
from lorica.formats.methods.leaves import TOLD, leaf_tables
from lorica.formats.names import Location
from lorica.formats.storage.files import FileContents
from lorica.models.folding import Shape

FLOATS = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")
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
        contents: the file.
        parsed: what its keys mean.
        account: what becomes of them.
    """

    def __init__(self, contents: FileContents, parsed: Parsed, account: Account) -> None:
        self._contents = contents
        self._parsed = parsed
        self._account = account
        self._shapes: Mapping[str, Mapping[str, Shape]] = parsed.target.components if parsed.target else {}
        self._patterns: dict[Case, Pattern] = {}
        tables = leaf_tables()
        self._flags, self._indices = tables.flags, tables.indices

    def read(self) -> dict[str, Layers]:
        """Component to module path to layer; keys of which nothing comes are left in the account.

        Raises:
            FormatError: if tensors are not numbers that a layer can hold, or two modules are one of the model's.
            ShapeError: if the tensors of a module do not fit each other.
        """
        locate, kinds, all_shapes = self._parsed.locate, self._parsed.modules.kinds, self._shapes
        components: dict[str, Layers] = {}
        used: dict[str, Location] = {}
        for name, leaves in self._parsed.modules.leaves.items():
            location = locate(name)
            if isinstance(location, str):
                self._account.leave_stranger(leaves.values(), name, location)
                continue
            component, (part, *others) = location
            shapes = all_shapes.get(component)
            case = kinds[name], None if shapes is None else shapes[part.path]
            whole = not others and part.rows is None
            layer = self._like(case, leaves, location) if whole and case in self._patterns else None
            layers = {part.path: layer} if layer else self._new(case, leaves, location)
            if isinstance(layers, str):
                self._account.leave(leaves.values(), layers)
                continue
            home = components.setdefault(component, {})
            for path, layer in layers.items():
                if path in home:
                    raise self._named_twice(used, component, path, leaves)
                home[path] = layer
            used[name] = location
        self._note(used)
        return components

    def _like(self, case: Case, leaves: Leaves, location: Location) -> AdapterLayer | None:
        """The layer that a module of a known kind makes, or None if it has another alpha."""
        pattern = self._patterns[case]
        layer = pattern.layers.get(self._told_alpha(leaves, location, pattern.rank))
        if layer is None:
            return None
        tensors, own = self._contents.tensors, {}
        for leaf, meaning in pattern.leaves:
            own[leaf] = tensors[leaves[meaning]]
        layer = layer.twin(own)
        revise = self._parsed.revise
        return layer if revise is as_it_is or revise(location.parts[0].path, layer, case[1]) is layer else None

    def _new(self, case: Case, leaves: Leaves, location: Location) -> Layers | str:
        """The layers, by path, that a module makes when all of it is looked at, or why there are none."""
        shapes, path = self._shapes.get(location.component), location.parts[0].path
        shape = None if shapes is None else location.shape_in(shapes)
        made = self._made(leaves, location, shape)
        layer = made if isinstance(made, str) else self._parsed.revise(path, made, shape)
        if isinstance(layer, str):
            return layer
        layers = {path: layer}
        if not location.is_whole:
            if shape and not layer.fits(shape):
                return _misfit(layer, shape, path)
            try:
                layers = split(layer, location)
            except FormatError as error:
                return str(error)
        fit = _fit(layers, shapes)
        if isinstance(fit, str):
            return fit
        if not (location.is_whole and fit[path] is made and self._remember(case, leaves, location, fit[path])):
            own = {key: tuple(self._contents.tensors[key].shape) for key in leaves.values()}
            self._account.spelling.shapes.update(own)
        return fit

    def _made(self, leaves: Leaves, location: Location, shape: Shape | None) -> AdapterLayer | str:
        """The layer that the tensors of a module make, or the reason why they make none."""
        methods = methods_for(leaves)
        if isinstance(methods, str):
            return methods
        if "alpha" in leaves and "scale" not in leaves:
            counts = all(method.alpha_counts(frozenset(leaves)) for method in methods)
            alpha = self._finite_alpha(leaves["alpha"], counts=counts)
            is_rank = alpha == 0 and self._parsed.zero_is_rank and not methods[0].zero_alpha
            layer = self._build(leaves, None if is_rank else alpha, shape)
        else:
            layer = self._build(leaves, None, shape)  # to know the rank
            alpha = self._scale_or_default(leaves, location, layer.rank)
            layer = layer if alpha in (None, layer.alpha) else self._build(leaves, alpha, shape)
        told = tuple(self._contents.tensors[leaves["reshape"]].flatten().tolist()) if "reshape" in leaves else None
        if told not in (None, layer.weight_shape):
            return f"its reshape_weight is {told}, but its other tensors change a weight of shape {layer.weight_shape}."
        return layer

    def _scale_or_default(self, leaves: Leaves, location: Location, rank: int) -> float | None:
        if "scale" in leaves:
            return self._number(leaves["scale"]) * rank
        return self._parsed.default_alpha(location.component, location.parts[0].path, rank)

    def _build(self, leaves: Leaves, alpha: float | None, shape: Shape | None) -> AdapterLayer:
        source, tensors = self._contents.source, self._contents.tensors
        for meaning, key in leaves.items():
            if meaning in self._flags:
                self._number(key)
            free = meaning in TOLD or meaning in self._flags or meaning in self._indices
            if not free and not tensors[key].is_floating_point():
                what = f"{key!r} holds {tensors[key].dtype} numbers"
                raise FormatError(f"{source}: {what}. Readable: {', '.join(FLOATS)}.")
        own = {meaning: tensors[key] for meaning, key in leaves.items() if meaning not in TOLD}
        try:
            return build(own, alpha, shape)
        except ShapeError as error:
            raise ShapeError(f"{source}: {' and '.join(leaves[meaning] for meaning in own)}: {error}") from error

    def _remember(self, case: Case, leaves: Leaves, location: Location, layer: AdapterLayer) -> bool:
        """Take a layer as a pattern and return true, if it is nothing but the module's tensors and the told alpha."""
        tensors = {id(self._contents.tensors[key]): meaning for meaning, key in leaves.items() if meaning != "alpha"}
        names = {name: tensors.pop(id(tensor), None) for name, tensor in layer.tensors.items()}
        meanings = tuple((name, meaning) for name, meaning in names.items() if meaning is not None)
        if tensors or len(meanings) < len(names) or inner_of(layer) is not None:
            return False
        pattern = self._patterns.setdefault(case, Pattern(layer.rank, meanings, {}))
        pattern.layers[self._told_alpha(leaves, location, layer.rank)] = layer
        return True

    def _told_alpha(self, leaves: Leaves, location: Location, rank: int) -> float | None:
        """The number that stands under a module's alpha, or else what the configuration tells."""
        key = leaves.get("alpha")
        if key is not None:
            return self._contents.tensors[key].item()
        return self._parsed.default_alpha(location.component, location.parts[0].path, rank)

    def _finite_alpha(self, key: str, *, counts: bool) -> float:
        """The alpha that a key holds; it may only be infinite where it counts for nothing."""
        alpha = self._number(key)
        if isfinite(alpha) or (alpha > 0 and not counts):
            return alpha
        raise FormatError(f"{self._contents.source}: {key!r} is {alpha}; expected a number, such as the rank.")

    def _number(self, key: str) -> float:
        tensor = self._contents.tensors[key]
        if tensor.numel() == 1 and not tensor.is_complex():
            return float(tensor.item())
        raise FormatError(
            f"{self._contents.source}: {key!r} has shape {tuple(tensor.shape)} of {tensor.dtype}; expected one number."
        )

    def _note(self, used: dict[str, Location]) -> None:
        """Note which modules were used, and how the file spells them."""
        spelling, tensors = self._account.spelling, self._contents.tensors
        modules = {name: self._parsed.modules.leaves[name] for name in used}
        self._account.used.extend(chain.from_iterable(map(Leaves.values, modules.values())))
        spelling.locations, spelling.leaves = used, modules
        numbers = (*TOLD, *self._flags)
        for leaves in modules.values():
            for number in numbers:
                if number in leaves:
                    spelling.numbers[leaves[number]] = tensors[leaves[number]]

    def _named_twice(self, used: Mapping[str, Location], component: str, path: str, leaves: Leaves) -> FormatError:
        """The error for a module of the model that two of the file are."""
        other = next(
            self._parsed.modules.leaves[name]
            for name, location in used.items()
            if location.component == component and path in location.paths()
        )
        meaning = next((meaning for meaning in leaves if meaning in other), next(iter(leaves)))
        first = other.get(meaning) or next(iter(other.values()))
        what = f"{meaning.rpartition('.')[2]} of {component}.{path}"
        return twice(self._contents.source, first, leaves[meaning], what)


def _fit(layers: Layers, shapes: Mapping[str, Shape] | None) -> Layers | str:
    """The layers as the model's weights need them, or the reason why one does not fit."""
    if shapes is None:
        return layers
    for path, layer in layers.items():
        fit = fitted(layer, shapes[path])
        if fit is None:
            return _misfit(layer, shapes[path], path)
        layers[path] = fit
    return layers


def fitted(layer: AdapterLayer, shape: Shape) -> AdapterLayer | None:
    """The layer for a weight of the given shape, or None if it cannot be.

    A Linear and a 1 x 1 convolution hold the same numbers, and some models have the one where their files have the
    other (``proj_in`` of Stable Diffusion 2): trailing ones are added or taken away.
    """
    if layer.fits(shape):
        return layer
    if _bare(layer.weight_shape) != _bare(shape):
        return None
    ones, indices = [1] * (len(shape) - 2), leaf_tables().indices
    leaves = {
        leaf: tensor if leaf in indices or tensor.ndim < 2 else tensor.reshape(*tensor.shape[:2], *ones)
        for leaf, tensor in leaves_of(layer).items()
    }
    again = rebuild(layer, leaves, layer.alpha, shape)
    return again if again.fits(shape) else None


def _bare(shape: Shape) -> Shape:
    """A weight's shape without its kernel, if that is all ones."""
    return shape[:2] if all(size == 1 for size in shape[2:]) else shape


def _misfit(layer: AdapterLayer, shape: Shape, path: str) -> str:
    advice = too_narrow(path, layer.weight_shape, shape)
    return f"it changes a weight of shape {layer.weight_shape}, but the model has {shape} there.{advice}"
