"""Where the layers of a live model are, looked up again only after its modules changed.

Going through all modules takes milliseconds, and every load needs it. To see that each module still has the children
that it had takes a tenth of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lorica.models.target import Target
from lorica.runtime.bank.bank import CHILD
from lorica.runtime.model.supported_layers import can_serve, weight_shape


class Layout:
    """The layers of a model's components by path.

    Args:
        components: the model's parts by name, which may change.
    """

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self.components = components
        self._trees: dict[str, Tree] = {}
        self._target = Target("this model", {})

    def layers(self, component: str) -> Mapping[str, nn.Module]:
        """Return the layers that some kind of adapter can act on: norms too."""
        return self._looked_at(component).layers

    def tree(self, component: str) -> Tree:
        """Return the layers of a component as they were when they were last looked at."""
        found = self._trees.get(component)
        if found is None or found.root is not self.components[component]:
            found = self._trees[component] = Tree(self.components[component])
            found.look()
        return found

    def target(self) -> Target:
        """Return the module paths and weight shapes of all components: the same object as long as they are the same."""
        shapes = {name: self._looked_at(name).shapes for name in self.components}
        known = self._target.components
        if shapes.keys() != known.keys() or any(found is not known[name] for name, found in shapes.items()):
            self._target = Target(self._target.name, shapes)
        return self._target

    def _looked_at(self, component: str) -> Tree:
        tree = self.tree(component)
        tree.look()
        return tree


class Tree:
    """The layers below one module, as they were at the last :meth:`look`.

    Args:
        root: the module.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.layers: Mapping[str, nn.Module] = {}
        self.shapes: Mapping[str, tuple[int, ...]] = {}  # of the layers' weights; another object if one changed
        self.parents: Mapping[str, nn.Module] = {}  # the module that holds each layer
        self._tables: list[dict[str, Any]] = []  # of the children of each module
        self._children: tuple[list[Any], list[int]] = ([], [])
        self._sizes: list[tuple[int, ...]] = []

    def look(self) -> None:
        """See whether modules or shapes changed."""
        same = bool(self._tables) and _children_in(self._tables) == self._children
        if not same:
            own = {path: module for path, module in self.root.named_modules() if not path.endswith(CHILD)}
            self._tables = [module._modules for module in own.values()]  # pyright: ignore[reportPrivateUsage]
            self._children = _children_in(self._tables)
            self.layers = {path: module for path, module in own.items() if can_serve(module)}
            self.parents = {path: own[path.rpartition(".")[0]] for path in self.layers if path}
        sizes = [_size_of(layer) for layer in self.layers.values()]
        if not same or sizes != self._sizes:
            self._sizes, self.shapes = sizes, {path: weight_shape(layer) for path, layer in self.layers.items()}


def _children_in(tables: list[dict[str, Any]]) -> tuple[list[Any], list[int]]:
    """Return the names and children of all modules in one list, and how many each has; a bank is none."""
    return (
        [item for table in tables for item in table.items() if item[0] != CHILD],
        [len(table) - (CHILD in table) for table in tables],
    )


def _size_of(layer: nn.Module) -> tuple[int, ...]:
    """Return what is another if the layer's weight has another shape, as quickly as it can be had."""
    weight = layer._parameters.get("weight")  # pyright: ignore[reportPrivateUsage]
    return weight_shape(layer) if weight is None else weight.shape
