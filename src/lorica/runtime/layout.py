"""Where the layers of a live model are, looked up again only after its modules changed.

Going through all modules takes milliseconds, and every load needs it. To see that each module still has the children
that it had takes a tenth of that.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from lorica.models.target import Shape, Target
from lorica.runtime.bank import CHILD
from lorica.runtime.served import can_serve, weight_shape


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
        return self._tree(component).layers()

    def target(self) -> Target:
        """Return the module paths and weight shapes of all components: the same object as long as they are the same."""
        shapes = {name: self._tree(name).shapes() for name in self.components}
        if shapes != self._target.components:
            self._target = Target(self._target.name, shapes)
        return self._target

    def _tree(self, name: str) -> Tree:
        found = self._trees.get(name)
        if found is None or found.root is not self.components[name]:
            found = self._trees[name] = Tree(self.components[name])
        return found


class Tree:
    """The layers below one module.

    Args:
        root: the module.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self._children: list[tuple[nn.Module, dict[str, nn.Module]]] = []
        self._layers: dict[str, nn.Module] = {}

    def layers(self) -> Mapping[str, nn.Module]:
        """Return the layers by path."""
        if not self._children or any(_changed(module, children) for module, children in self._children):
            own = {path: module for path, module in self.root.named_modules() if not path.endswith(CHILD)}
            self._children = [(module, _children_of(module)) for module in own.values()]
            self._layers = {path: module for path, module in own.items() if can_serve(module)}
        return self._layers

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of each layer's weight."""
        return {path: weight_shape(layer) for path, layer in self.layers().items()}


def _changed(module: nn.Module, children: dict[str, nn.Module]) -> bool:
    """Tell whether a module has other children than it had; a bank is none."""
    return module._modules != children and _children_of(module) != children  # pyright: ignore[reportPrivateUsage]


def _children_of(module: nn.Module) -> dict[str, nn.Module]:
    return {name: child for name, child in module.named_children() if name != CHILD}
