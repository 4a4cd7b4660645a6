"""The layers of one file: of modules that are alike, the first is checked, and the others are made like it.

A file has the same few kinds of module in block after block. Whether tensors make a layer, and which, depends on what
they mean, their shapes and dtypes, the alpha and the weight's shape: so what was found out for one module holds for all
that have the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from lorica.adapters import AdapterLayer
from lorica.formats.files import Stored
from lorica.formats.layers import Leaves, make_layer, other_shape
from lorica.formats.places import Shape
from lorica.formats.recipes import recipe_for
from lorica.formats.unread import Unread


class LayerMaker:
    """Makes the layers of one file.

    Args:
        stored: the content of the file.
    """

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        unread = any(isinstance(tensor, Unread) for tensor in stored.tensors.values())
        self._form: Any = attrgetter("shape", "stored_dtype" if unread else "dtype")
        self._first: dict[tuple[Any, ...], tuple[AdapterLayer, tuple[str | None, ...]]] = {}

    def make(self, leaves: Leaves, alpha: float | None, shape: Shape | None) -> AdapterLayer | str:
        """Return the layer that the tensors of one module make, or the reason why they make none.

        Args:
            leaves: meaning to key.
            alpha: the alpha; None stands for the rank.
            shape: the shape of the weight, if it is known.

        Raises:
            FormatError: if they are not numbers that a layer can hold.
            ShapeError: if they do not fit each other.
        """
        tensors = [self._stored.tensors[key] for key in leaves.values()]
        kind = (alpha, shape, *leaves, *map(self._form, tensors))
        if kind in self._first:
            first, names = self._first[kind]
            return first.twin({name: tensor for name, tensor in zip(names, tensors, strict=True) if name})
        recipe = recipe_for(frozenset(leaves))
        if isinstance(recipe, str):
            return recipe
        layer = make_layer(self._stored, leaves, alpha, shape)
        wrong = other_shape(self._stored, leaves, layer)
        if wrong:
            return wrong
        names = {id(tensor): name for name, tensor in layer.tensors.items()}
        own = tuple(names.get(id(tensor)) for tensor in tensors)
        if _is_told(layer, dict(zip(leaves, own, strict=True))):
            self._first[kind] = layer, own
        return layer


def _is_told(layer: AdapterLayer, names: Mapping[str, str | None]) -> bool:
    """Tell whether nothing of a layer depends on the numbers in a file, or on a change of them.

    Args:
        layer: the layer.
        names: the meanings of its module's tensors to the names of the very same tensors in the layer.
    """
    held = [name for meaning, name in names.items() if meaning not in ("alpha", "scale")]
    return layer.kind != "dora" and len(held) == len(layer.tensors) and {*held} == layer.tensors.keys()
