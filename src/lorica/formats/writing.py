"""From the layers of an adapter to named tensors: what every format that is written shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lorica.adapters import Adapter, AdapterLayer
from lorica.errors import FormatError, ShapeError
from lorica.formats.account import FileSpelling
from lorica.formats.base_model import fits, likeliest_families, widened
from lorica.formats.methods.fused import join
from lorica.formats.methods.layers import alike, build, forms, has_alpha, method_of, unwritable
from lorica.formats.methods.method import Form
from lorica.formats.names import Location, flat_names, number_parts
from lorica.models import Target
from lorica.models.clip import spellings, with_wrapper
from lorica.models.folding import Shape
from lorica.models.spellings import spellings_of

SHOWN = 5  # layers that a refusal lists
NameOf = Callable[[Target], Mapping[str, str]]  # a model to component and path, as one text, to the name in a file


@dataclass(slots=True)
class Writer:
    """The tensors of a file that is being composed, and what it cannot hold.

    Args:
        format: the format's name, for messages.
        leaves: meaning to what the format writes behind a module's name and a dot.
        spelling: how the adapter was spelled when it was read; kept where it still holds.
        with_alpha: whether each module has a key for its alpha.
        zero_alpha: whether an alpha of 0 is one, and not the rank.
        special: the tensors of a layer, behind the module's name, where they are not simply the leaves.
    """

    format: str
    leaves: Mapping[str, str]
    spelling: FileSpelling = field(default_factory=FileSpelling)
    with_alpha: bool = True
    zero_alpha: bool = False
    special: Callable[[AdapterLayer, str], Form | None] = lambda _layer, _name: None
    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    refused: dict[str, str] = field(default_factory=dict[str, str])

    def add_component(self, component: str, layers: Mapping[str, AdapterLayer], names: Mapping[str, Location]) -> None:
        """Add the layers of one component under their names in the file: those it was read with, else the given."""
        name_of = {**_by_path(names), **_by_path(self.spelling.names_in(component, layers))}
        locations = {**names, **self.spelling.locations}
        groups: dict[str, dict[str, AdapterLayer]] = {}
        for path, layer in layers.items():
            name = next((name_of[spelling] for spelling in spellings(path) if spelling in name_of), None)
            if name is None:
                self.refused[f"{component}.{path}"] = "the format has no name for this module."
            else:
                groups.setdefault(name, {})[path] = layer
        for name, parts in groups.items():
            joined = next(iter(parts.values())) if locations[name].is_whole else join(parts, locations[name])
            if isinstance(joined, str):
                self.refused[" and ".join(f"{component}.{path}" for path in parts)] = joined
            else:
                self.add(name, joined)

    def add(self, name: str, layer: AdapterLayer) -> None:
        """Add one layer under its name in the file."""
        try:
            tensors = self._tensors_of(name, layer)
        except FormatError as error:
            tensors = str(error)
        if isinstance(tensors, str):
            self.refused[name] = tensors
        else:
            self.tensors.update(tensors)

    def _tensors_of(self, name: str, layer: AdapterLayer) -> dict[str, Tensor] | str:
        """The tensors of a layer by key, or the reason why the format cannot hold it."""
        method = method_of(layer)
        special = self.special(layer, name)
        if special is not None:
            return {f"{name}.{leaf}": tensor for leaf, tensor in special.items()}
        spelled = self.spelling.tensors_of(name, layer, told=not self.with_alpha or not has_alpha(layer))
        if spelled is not None:
            return spelled
        known = list(forms(layer))
        leaves = next((form for form in known if form.keys() <= self.leaves.keys()), None)
        if leaves is None:
            strange = next(meaning for meaning in known[0] if meaning not in self.leaves)
            return unwritable(layer, strange)
        if not _comes_back(layer, leaves):
            return f"it is a {layer.kind} layer that would be read as another one: {layer!r:.300}."
        tensors = {f"{name}.{self.leaves[meaning]}": tensor for meaning, tensor in leaves.items()}
        if not self.with_alpha or method.alpha is None:
            return tensors
        if layer.alpha == 0 and not self.zero_alpha and not method.zero_alpha:
            return "it has alpha 0, which such files mean the rank by; leave the layer out instead."
        dtype = next(iter(layer.tensors.values())).dtype
        return {**tensors, f"{name}.{self.leaves['alpha']}": exact_scalar(layer.alpha, dtype)}

    def finish(self) -> dict[str, Tensor]:
        """The tensors.

        Raises:
            FormatError: listing what the format cannot hold.
        """
        if self.refused:
            raise refusal(self.format, self.refused)
        return self.tensors


def _comes_back(layer: AdapterLayer, leaves: Form) -> bool:
    """Whether the leaves of a layer, when they are read, make the same one."""
    try:
        return alike(build(leaves, layer.alpha, layer.weight_shape), layer)
    except (FormatError, ShapeError):
        return False


def _by_path(names: Mapping[str, Location]) -> dict[str, str]:
    paths = ((name, path) for name, location in names.items() for path in location.paths())
    return {spelling: name for name, path in paths for spelling in spellings(path)}


def refusal(format_name: str, refused: Mapping[str, str]) -> FormatError:
    """The error that lists what a format cannot hold, and why."""
    shown = [f"{name}: {reason}" for name, reason in list(refused.items())[:SHOWN]]
    if len(refused) > SHOWN:
        shown.append(f"and {len(refused) - SHOWN} more")
    lines = "\n  ".join(shown)
    return FormatError(f"the {format_name} format cannot hold all of this adapter, so nothing was written.\n  {lines}")


def refuse_embeddings(adapter: Adapter, format_name: str) -> None:
    """Raise FormatError if an adapter has embeddings."""
    if adapter.embeddings:
        tokens = ", ".join(adapter.embeddings)
        raise FormatError(f"the {format_name} format holds no embeddings, and this adapter has some: {tokens}.")


def shapes_for(adapter: Adapter, component: str, model: Target | None) -> dict[str, Shape]:
    """The modules of a component: the model's, and those of the adapter in the spelling that files carry."""
    known = dict(model.components.get(component, {})) if model else {}
    own = {
        with_wrapper(path): layer.weight_shape
        for path, layer in adapter.components.get(component, {}).items()
        if not any(spelling in known for spelling in spellings(path))
    }
    return {**known, **own}


def names_for(
    shapes: Mapping[str, Shape], component: str, styles: Iterable[str], *, numbered: bool = False
) -> dict[str, Location]:
    """Locations by dotted name: each module in the first of the styles that the model has, else by its own path.

    Args:
        shapes: the modules.
        component: the component that they are of.
        styles: the styles, the best first.
        numbered: whether the parts of a fused weight have names of their own.
    """
    known = spellings_of(shapes)
    style = next((known[style] for style in styles if style in known), None)
    names = {name: Location(component, parts) for name, parts in (style.table(shapes) if style else {}).items()}
    names = number_parts(names) if numbered else names
    named = {path for location in names.values() for path in location.paths()}
    return {**names, **{with_wrapper(path): Location.of(component, path) for path in shapes if path not in named}}


def flat_or_dotted(names: Mapping[str, Location], start: str, joint: str) -> dict[str, Location]:
    """The names behind a prefix, with something else for the dots.

    Raises:
        FormatError: if two modules then share a name, naming both.
    """
    if joint == ".":
        return {f"{start}.{name}" if start else name: location for name, location in names.items()}
    return {flat: names[name] for flat, name in flat_names(names, start).items()}


def exact_scalar(value: float, dtype: torch.dtype) -> Tensor:
    """A number as a tensor of the given dtype if that holds it exactly, else of 32 or 64 bits."""
    for kind in (dtype, torch.float32):
        number = torch.tensor(value, dtype=kind, device="cpu")
        if number.item() == value:
            return number
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def model_of(adapter: Adapter, target: Target | None, names: NameOf) -> Target | None:
    """The model that an adapter is for where the caller may not say: whose names its modules get. None if none fits.

    It is the one given; or that in which the names of its file were looked up; or that of the first family that it
    fits. Families that it fits alike (dev and schnell of Flux) must name its modules alike.

    Raises:
        FormatError: if they do not (Flux and HunyuanVideo), naming them.
    """
    if target is not None:
        return target
    models = _models_of_its_file(adapter) or _models_that_fit(adapter)
    if not models:
        return None
    named = [names(model) for model in models]
    differing = next((module for module, name in named[0].items() if any(name != each[module] for each in named)), None)
    if differing is not None:
        ways = " or ".join(f"{each[differing]!r} ({model.name})" for each, model in zip(named, models, strict=True))
        raise FormatError(
            f"the adapter fits several base models alike, which have names of their own in such a file: {differing} is "
            f"{ways}. Name the one that it is for: target= (--model)."
        )
    return models[0]


def _models_of_its_file(adapter: Adapter) -> list[Target]:
    """The models that the names in an adapter's file are of and that it still fits."""
    spelling = adapter.report.spelling if adapter.report else None
    models = spelling.models if isinstance(spelling, FileSpelling) else ()
    return [model for model in models if fits(adapter, model)]


def _models_that_fit(adapter: Adapter) -> list[Target]:
    sizes = [(component, path, layer.weight_shape) for component, path, layer in adapter.layers()]
    return [widened(family.target, sizes) for family in likeliest_families(adapter)]
