"""Changes of normalisation layers in files: ``w_norm`` and ``b_norm`` of LyCORIS, or a ``diff`` of one dimension."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from lorica.adapters import Norm
from lorica.formats.methods.method import BIAS, Form, Leaf, Method

_AS_ANY_OTHER = {"norm.diff": "full.diff", "norm.bias": BIAS}  # a difference that is spelled like that of any weight


class _NormMethod(Method[Norm]):
    def is_of(self, tensors: Mapping[str, Tensor]) -> bool:
        return "full.diff" not in tensors or tensors["full.diff"].ndim == 1

    def forms(self, layer: Norm) -> Iterator[Form]:
        for form in super().forms(layer):
            yield form
            yield {_AS_ANY_OTHER[meaning]: tensor for meaning, tensor in form.items()}


NORM = _NormMethod(
    layer=Norm,
    group="norm",
    leaves=(Leaf("diff", "w_norm", by_rows=True), Leaf("bias", "b_norm", by_rows=True)),
    patterns=("diff bias?", "full.diff"),
    alpha=None,
)
