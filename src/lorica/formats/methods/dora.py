"""DoRA in files: magnitudes beside the leaves of the method that moves the weight.

LyCORIS and Kohya's scripts spell them ``dora_scale``, whose shape tells the axis. PEFT's ``lora_magnitude_vector`` is
of outputs, also where its shape could be of inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from lorica.adapters import AdapterLayer, DoRA
from lorica.errors import FormatError
from lorica.formats.methods.lora import lora_config
from lorica.formats.methods.method import Form, Leaf, Method, Wrapper
from lorica.formats.methods.peft import PeftPlan
from lorica.models.folding import Shape


class _DoRAMethod(Wrapper[DoRA]):
    def refuses(self, inner: Method[Any]) -> str | None:
        if inner.with_magnitude:
            return None
        return f"its module holds a DoRA magnitude, which a {inner.kind} layer has none of."

    def build_on(self, inner: AdapterLayer, tensors: Mapping[str, Tensor], like: DoRA | None = None) -> DoRA:
        if "output_magnitude" in tensors:
            return DoRA(inner, tensors["output_magnitude"], axis="output")
        return DoRA(inner, tensors["magnitude"], axis=like.axis if like else None)

    def forms(self, layer: DoRA) -> Iterator[Form]:
        yield {"dora.magnitude": layer.magnitude}
        if layer.axis == "output":  # PEFT's is ``(out,)``, and ``(1, out, 1, ...)`` for a convolution
            kernel = [1] * (len(layer.weight_shape) - 2)
            yield {"dora.output_magnitude": layer.magnitude.reshape([1, -1, *kernel] if kernel else [-1])}

    def unwritable(self, layer: DoRA, meaning: str) -> str:
        if layer.axis == "input":
            return "its DoRA magnitudes are of inputs, and the format's are of outputs."
        return super().unwritable(layer, meaning)

    def heights(self, layer: DoRA) -> dict[str, int]:
        # The norm of a row needs that row only; the norm of a column needs all rows.
        if layer.magnitude.ndim > 1 and layer.magnitude.shape[0] == 1 != layer.weight_shape[0]:
            raise FormatError("a DoRA layer with magnitudes of columns cannot be cut into the rows of several modules.")
        return super().heights(layer)

    def peft_plan(self, layers: Mapping[str, DoRA], shapes: Mapping[str, Shape]) -> PeftPlan:
        del shapes
        strange = {path: layer.inner.kind for path, layer in layers.items() if layer.inner.kind != "lora"}
        refused = {path: f"it is a DoRA on a {kind}, and PEFT's are on LoRAs." for path, kind in strange.items()}
        return PeftPlan({**lora_config(layers), **self.peft_settings}, refused=refused)


DORA = _DoRAMethod(
    layer=DoRA,
    group="dora",
    leaves=(
        Leaf("magnitude", "dora_scale", also=("magnitude",), by_rows=True),
        Leaf("output_magnitude", peft="lora_magnitude_vector", also=("lora_magnitude_vector.weight",)),
    ),
    patterns=("magnitude", "output_magnitude"),
    peft_type="LORA",
    peft_settings={"use_dora": True},
)
