"""What LyCORIS extracts from a tuned model: a LoRA or LoCon, and the largest numbers that it misses.

The files call those numbers a bias, which they are not: they are added to the weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from lorica.adapters import AdapterLayer, Places, Residual
from lorica.formats.methods.method import Form, Leaf, Method, Wrapper


class _ResidualMethod(Wrapper[Residual]):
    def refuses(self, inner: Method[Any]) -> str | None:
        # LoRA and LoCon, whose scaling counts for the numbers too: LyCORIS extracts nothing else.
        return None if inner.group == "lora" else f"its module holds numbers that a {inner.kind} layer has none of."

    def build_on(self, inner: AdapterLayer, tensors: Mapping[str, Tensor], like: Residual | None = None) -> Residual:
        del like
        return Residual(inner, tensors["bias_values"], Places(tensors["bias_indices"], tensors["bias_size"]))

    def forms(self, layer: Residual) -> Iterator[Form]:
        indices, size = layer.places.indices, layer.places.size
        tensors = {"bias_indices": indices, "bias_values": layer.tensors["values"], "bias_size": size}
        yield {self.meaning(name): tensor for name, tensor in tensors.items()}


RESIDUAL = _ResidualMethod(
    layer=Residual,
    group="residual",
    leaves=(
        Leaf("bias_indices", "bias_indices", is_index=True), Leaf("bias_values", "bias_values"),
        Leaf("bias_size", "bias_size", is_index=True),
    ),
    patterns=("bias_indices bias_values bias_size",),
    can_be_cut=False,
)  # fmt: skip
