"""What a file of this folder says of one method: its tensors in files, their layer, its rows, and PEFT's form of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from lorica.adapters import AdapterLayer
from lorica.errors import ShapeError
from lorica.formats.methods.peft import PeftModule, PeftPlan, refuse_biases
from lorica.formats.peft_config import make_config
from lorica.models.folding import Shape

Kind = TypeVar("Kind", bound=AdapterLayer)
Form = dict[str, Tensor]  # the tensors of a layer by what they mean in files, such as ``lora.down``
BIAS = "bias"  # the meaning of a change of the bias, which may stand beside the tensors of any method


class Leaf(NamedTuple):
    """One tensor of a method, as files spell it behind the name of a module and a dot.

    Args:
        name: its name within the method, mostly that of the layer's own tensor. It means ``group.name``.
        lycoris: the spelling of Kohya's scripts and LyCORIS, read and written; None where they have none.
        peft: that of PEFT, likewise.
        also: spellings that are only read.
        by_rows: whether it has the rows of the weight, and is cut with them.
        is_flag: whether it is a setting of the layer, one number of any dtype.
        is_index: whether it holds whole numbers.
        beside: the spelling of a leaf that must stand beside it, where its own is the end of many a key.
    """

    name: str
    lycoris: str | None = None
    peft: str | None = None
    also: tuple[str, ...] = ()
    by_rows: bool = False
    is_flag: bool = False
    is_index: bool = False
    beside: str | None = None

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every spelling that is read."""
        return tuple(filter(None, (self.lycoris, self.peft, *self.also)))


class ModuleTensors(NamedTuple):
    """What a file holds of one module.

    Args:
        tensors: the method's own tensors by name.
        alpha: the alpha; None stands for the rank.
        bias: the change of the bias, if there is one.
        shape: the shape of the weight, if it is known.
    """

    tensors: Mapping[str, Tensor]
    alpha: float | None = None
    bias: Tensor | None = None
    shape: Shape | None = None

    def check_dimensions(self, **dimensions: int) -> None:
        """Raise ShapeError unless the named tensors have that many dimensions."""
        for name, expected in dimensions.items():
            shape = tuple(self.tensors[name].shape)
            if len(shape) != expected:
                raise ShapeError(f"{name} has shape {shape}; expected {expected} dimension{'s' * (expected > 1)}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Method(Generic[Kind]):
    """How files hold one method. As it stands it serves a method whose leaves are its constructor's arguments.

    Args:
        layer: the class of the layers; its ``kind`` is the method's name.
        group: what the meanings of the leaves begin with; methods of one group are told apart by their leaves.
        leaves: its tensors. A ``bias`` may stand beside them in any method.
        patterns: the leaves that make a layer, by name: those with ``?`` may be there, all others must.
        alpha: what the constructor calls the alpha; None for a method without one.
        zero_alpha: whether an alpha of 0, or none, is 0 and not the rank.
        takes_shape: whether the constructor takes the shape of the weight.
        with_magnitude: whether magnitudes of the whole weight may stand beside the leaves.
        can_be_cut: whether rows of the weight can be a layer of their own.
        peft_type: PEFT's name of it; None where PEFT has no such method.
        peft_settings: what says in PEFT's configuration that layers are of this method.
        peft_options: whether PEFT's configuration says more of a layer than its rank and alpha.
        peft_shared: names of the tensors that PEFT has once for all modules, to their keys.
        peft_lacking: the reason why modules cannot be read if those are not in the file.
    """

    layer: type[Any]
    group: str
    leaves: tuple[Leaf, ...] = ()
    patterns: tuple[str, ...]
    alpha: str | None = "alpha"
    zero_alpha: bool = False
    takes_shape: bool = False
    with_magnitude: bool = False
    can_be_cut: bool = True
    peft_type: str | None = None
    peft_settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    peft_options: bool = False
    peft_shared: Mapping[str, str] = field(default_factory=dict[str, str])
    peft_lacking: str = ""

    @property
    def kind(self) -> str:
        """The layer's kind, a name in ``lorica.adapters.KINDS``."""
        return self.layer.kind

    def meaning(self, name: str) -> str:
        """The meaning of one of its leaves; other names are meanings already."""
        return f"{self.group}.{name}" if any(leaf.name == name for leaf in self.leaves) else name

    def meanings(self) -> frozenset[str]:
        """The meanings of its own leaves."""
        return frozenset(self.meaning(leaf.name) for leaf in self.leaves)

    def needs(self) -> Iterator[tuple[frozenset[str], frozenset[str]]]:
        """For each pattern the meanings that must be there, and all that may."""
        for pattern in self.patterns:
            names = pattern.split()
            may = frozenset(self.meaning(name.rstrip("?")) for name in names)
            yield may - {self.meaning(name[:-1]) for name in names if name.endswith("?")}, may | {BIAS}

    # Reading

    def takes(self, meanings: frozenset[str]) -> bool:
        """Whether a module of these leaves is of this method."""
        return any(needs <= meanings <= may for needs, may in self.needs())

    def is_of(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether tensors that it takes by their meanings are its own, where another method takes the same."""
        del tensors
        return True

    def tells_size(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether the layer of such tensors, by meaning, knows its inputs and outputs without the model."""
        del tensors
        return True

    def alpha_counts(self, meanings: frozenset[str]) -> bool:
        """Whether the alpha of a module of these leaves is a part of its formula."""
        del meanings
        return True

    def build(self, given: ModuleTensors) -> Kind:
        """The layer that the tensors of a module make.

        Raises:
            ShapeError: if they do not fit each other.
        """
        settings: dict[str, Any] = {"shape": given.shape} if self.takes_shape else {}
        if self.alpha is not None:
            settings[self.alpha] = (given.alpha or 0.0) if self.zero_alpha else given.alpha
        if given.bias is not None:
            settings["bias"] = given.bias
        return self.layer(**given.tensors, **settings)

    # Writing

    def forms(self, layer: Kind) -> Iterator[Form]:
        """A layer's own tensors in all ways in which files hold them. The first is the one that is cut and rebuilt."""
        yield {self.meaning(name): tensor for name, tensor in layer.tensors.items()}

    def unwritable(self, layer: Kind, meaning: str) -> str:
        """The reason why a format cannot hold a layer, if it has no spelling for one of its tensors."""
        return f"it is a {layer.kind} layer, and the format has no name for its {meaning!r}."

    def rebuild(self, layer: Kind, tensors: Mapping[str, Tensor], alpha: float, shape: Shape) -> Kind:
        """A layer of the same settings, with other tensors, those of its first form by name, and another alpha.

        Args:
            layer: the layer as it is.
            tensors: the tensors.
            alpha: the alpha.
            shape: the shape of the weight that the new layer changes.
        """
        settings = layer.settings
        if settings.get("shape") is not None:
            settings["shape"] = shape
        if self.alpha is not None:
            settings[self.alpha] = alpha
        return self.layer(**{name: tensors[name] for name in layer.tensors}, **settings)

    # Rows of the weight

    def heights(self, layer: Kind) -> dict[str, int]:
        """The leaves that are cut with the weight, each with the rows of the weight that one row of it stands for.

        Raises:
            FormatError: if this layer cannot be cut without changing it.
        """
        return {self.meaning(leaf.name): 1 for leaf in self.leaves if leaf.by_rows and leaf.name in layer.tensors}

    def pairs(self, layer: Kind) -> tuple[tuple[str, str], ...]:
        """The pairs of leaves, up and down, whose products make the change; none if it is not low-rank."""
        del layer
        return ()

    def changes(self, layer: Kind) -> bool:
        """Whether a layer changes anything, as far as a look at it tells."""
        del layer
        return True

    # PEFT

    def from_peft(self, layer: Kind, told: PeftModule) -> AdapterLayer | str:
        """The layer that PEFT's configuration makes of the one that the tensors tell, or why that cannot be read."""
        del told
        return layer

    def to_peft(self, layer: Kind, name: str) -> Form | None:
        """The tensors of a module of that name by PEFT's spelling; None where they are the leaves as usual."""
        del layer, name
        return None

    def peft_tensors(self, layer: Kind) -> Form:
        """A layer's tensors by PEFT's spelling, without those that PEFT keeps elsewhere."""
        return {leaf.peft: layer.tensors[leaf.name] for leaf in self.leaves if leaf.peft and leaf.name in layer.tensors}

    def peft_plan(self, layers: Mapping[str, Kind], shapes: Mapping[str, Shape]) -> PeftPlan:
        """What PEFT must be told of the layers of one model, by path, whose weights have these shapes where known."""
        del shapes
        return PeftPlan(make_config(layers), refused=refuse_biases(layers))


class Wrapper(Method[Kind], ABC):
    """A method whose layers stand on another one, their ``inner``, which the other leaves of the module make."""

    @abstractmethod
    def refuses(self, inner: Method[Any]) -> str | None:
        """The reason why it cannot stand on a layer of another method, or None if it can."""

    @abstractmethod
    def build_on(self, inner: AdapterLayer, tensors: Mapping[str, Tensor], like: Kind | None = None) -> Kind:
        """The layer that its own tensors, by name, make on an inner one, with the settings of another if one is given.

        Raises:
            ShapeError: if they do not fit each other.
        """


def switch(on: bool) -> Tensor:
    """A flag as files store it: one number."""
    return torch.tensor(float(on), dtype=torch.float32, device="cpu")
