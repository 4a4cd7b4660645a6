"""Changes of biases alone in files: ``diff_b``, or the ``b_norm`` of a normalisation layer without its ``w_norm``."""

from __future__ import annotations

from collections.abc import Iterator

from lorica.adapters import BiasOnly
from lorica.formats.methods.method import BIAS, Form, Method, ModuleTensors


class _Bias(Method[BiasOnly]):
    def build(self, given: ModuleTensors) -> BiasOnly:
        return BiasOnly(given.tensors["bias"] if given.bias is None else given.bias)

    def forms(self, layer: BiasOnly) -> Iterator[Form]:
        yield {BIAS: layer.tensors["bias"]}
        yield {"norm.bias": layer.tensors["bias"]}


BIAS_ALONE = _Bias(layer=BiasOnly, group=BIAS, patterns=(BIAS, "norm.bias"), alpha=None)
