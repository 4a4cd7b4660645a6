"""How a file spelled its keys, kept with what was read, so that it is written back in the same spelling.

One format has several spellings (Kohya files for Stable Diffusion XL exist with the original's block names and with
those of diffusers; alphas are missing, or of any dtype). ``write(read(file))`` gives the keys of the file again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from torch import Tensor

from lorica.adapters import Adapter, AdapterLayer
from lorica.formats.methods import peft_bias
from lorica.formats.methods.layers import NUMBERS, TOLD
from lorica.formats.methods.recipes import leaves_of, untold_alpha
from lorica.formats.places import Place, Shape
from lorica.models import Target

Leaves = Mapping[str, str]  # meaning to key


@dataclass(slots=True)
class Spelling:
    """The keys of one file.

    Args:
        places: the name of each module in the file to where it stands.
        leaves: that name to the keys of its leaves.
        numbers: key of an alpha, or another number that is told, to the tensor that the file has there.
        shapes: key to the file's shape, where the model's is another (a 1 x 1 convolution for a Linear).
        embeddings: token and component to key.
        models: the models that the names are of, the first that in which they were looked up; none if none was asked.
    """

    places: dict[str, Place] = field(default_factory=dict[str, Place])
    leaves: Mapping[str, Leaves] = field(default_factory=dict[str, Leaves])
    numbers: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    shapes: dict[str, Shape] = field(default_factory=dict[str, Shape])
    embeddings: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    models: Sequence[Target] = ()

    def names_in(self, component: str, paths: Mapping[str, object]) -> dict[str, Place]:
        """Return the names that the file has for modules of a component of which some path is asked for."""
        return {
            name: place
            for name, place in self.places.items()
            if place.component == component and any(path in paths for path in place.paths())
        }

    def tensors_of(self, name: str, layer: AdapterLayer, *, told: bool) -> dict[str, Tensor] | None:
        """Return the tensors of a module under the file's own keys, or None if those are not for such a layer.

        Args:
            name: the module's name in the file.
            layer: its layer.
            told: whether the alpha is told elsewhere, if no key tells it.
        """
        keys = self.leaves.get(name, {})
        leaves = _aligned(leaves_of(layer), {meaning for meaning in keys if meaning not in TOLD})
        if not keys or leaves is None:
            return None
        if keys.get("bias", "").endswith(peft_bias.LEAF):
            bias = peft_bias.unscaled_bias(layer)
            if bias is None:
                return None
            leaves["bias"] = bias
        tensors = {keys[meaning]: self._own(keys[meaning], meaning, tensor) for meaning, tensor in leaves.items()}
        told_by = "scale" if "scale" in keys else "alpha"  # the one that counts; the other is kept as it is
        numbers = {
            meaning: self._number(key, meaning, layer) if meaning in (told_by, "reshape") else self.numbers[key]
            for meaning, key in keys.items()
            if meaning in TOLD
        }
        if any(number is None for number in numbers.values()) or (
            told_by not in numbers and not told and layer.alpha != untold_alpha(layer)
        ):
            return None
        return {**tensors, **{keys[meaning]: number for meaning, number in numbers.items() if number is not None}}

    def _own(self, key: str, meaning: str, tensor: Tensor) -> Tensor:
        """Return a tensor in the shape that the file has; a switch that is as it was, just as it was."""
        if meaning in NUMBERS and bool(self.numbers[key]) == bool(tensor):
            return self.numbers[key]
        return _shaped(tensor, self.shapes[key]) if key in self.shapes else tensor

    def _number(self, key: str, meaning: str, layer: AdapterLayer) -> Tensor | None:
        """Return the file's own number, if it still says the layer's alpha, or the shape of its weight."""
        number = self.numbers[key]
        if meaning == "reshape":
            return number if tuple(number.flatten().tolist()) == layer.weight_shape else None
        alpha = float(number.item()) * (layer.rank if meaning == "scale" else 1)
        return number if alpha == layer.alpha or (alpha == 0 and layer.alpha == layer.rank) else None


def spelling_of(adapter: Adapter, format_name: str) -> Spelling:
    """Return how the adapter was spelled in the file of this format that it was read from; if there is none, empty."""
    report = adapter.report
    if report is None or report.format != format_name or not isinstance(report.spelling, Spelling):
        return Spelling()
    return report.spelling


def _shaped(tensor: Tensor, shape: Shape) -> Tensor:
    """Return a tensor in the shape that a file has there; after a change of rank, with as many dimensions."""
    if tensor.numel() == prod(shape):
        return tensor.reshape(shape)
    size, ones = tensor.shape[:2], [1] * (len(shape) - 2)
    return tensor.reshape(*size, *ones) if len(shape) > 1 and prod(size) == tensor.numel() else tensor


def _aligned(leaves: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor] | None:
    """Return leaves under the meanings that a file has for them, or None if it has others."""
    if leaves.keys() == wanted:
        return leaves
    if wanted == {"lora.table_down", "lora.table_up"} and leaves.keys() == {"lora.down", "lora.up"}:
        return {"lora.table_down": leaves["lora.up"].T, "lora.table_up": leaves["lora.down"].T}
    if wanted == {"norm.bias"} and leaves.keys() == {"bias"}:
        return {"norm.bias": leaves["bias"]}
    renamed = {_AS_FULL.get(meaning, meaning): tensor for meaning, tensor in leaves.items()}
    return renamed if renamed.keys() == wanted else None


_AS_FULL = {"norm.diff": "full.diff", "norm.bias": "bias"}  # a difference of a norm that is spelled like any other
