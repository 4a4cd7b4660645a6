"""LoHa in files: ``hada_w1_a`` and its like, in LyCORIS and PEFT alike."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from lorica.adapters import AdapterLayer, LoHa
from lorica.errors import FormatError
from lorica.formats.methods.method import Form, Leaf, Method, ModuleTensors
from lorica.formats.methods.peft import CONV1D, MOST_DIMENSIONS, PeftModule, PeftPlan, refuse_biases
from lorica.formats.peft_config import make_config
from lorica.models.folding import Shape


class _LoHaMethod(Method[LoHa]):
    def build(self, given: ModuleTensors) -> LoHa:
        tensors, kernel = given.tensors, given.tensors["w1_b"].shape[2:]
        if not kernel or "t1" in tensors:
            return super().build(given)
        # OneTrainer kept the kernel of a convolution in ``w1_b`` and ``w2_b``, and ones in the others.
        shape = (tensors["w1_a"].shape[0], tensors["w1_b"].shape[1], *kernel)
        flat = {name: tensor.flatten(1) for name, tensor in tensors.items()}
        return super().build(given._replace(tensors=flat, shape=shape))

    def heights(self, layer: LoHa) -> dict[str, int]:
        if "t1" in layer.tensors:
            raise FormatError("a LoHa layer with Tucker cores cannot be cut into the rows of several modules.")
        return super().heights(layer)

    def pairs(self, layer: LoHa) -> tuple[tuple[str, str], ...]:
        return () if "t1" in layer.tensors else (("loha.w1_a", "loha.w1_b"), ("loha.w2_a", "loha.w2_b"))

    def from_peft(self, layer: LoHa, told: PeftModule) -> AdapterLayer | str:
        cores = {name: tensor for name, tensor in layer.tensors.items() if name in ("t1", "t2")}
        shapes = {tuple(core.shape[3:]) for core in cores.values()}
        if told.shape is None or len(told.shape) != CONV1D or shapes != {(1,)}:
            return layer
        squeezed = {name: core.squeeze(-1) for name, core in cores.items()}  # PEFT's have an axis more than the weight
        return self.rebuild(layer, {**layer.tensors, **squeezed}, layer.alpha, told.shape)

    def to_peft(self, layer: LoHa, name: str) -> Form | None:
        del name
        tensors = self.peft_tensors(layer)
        cores = [core for core in ("t1", "t2") if core in layer.tensors and layer.tensors[core].ndim == CONV1D]
        return {**tensors, **{f"hada_{core}": layer.tensors[core].unsqueeze(-1) for core in cores}} if cores else None

    def peft_plan(self, layers: Mapping[str, LoHa], shapes: Mapping[str, Shape]) -> PeftPlan:
        cores = any("t1" in layer.tensors for layer in layers.values())
        config = make_config(layers)
        config |= {"alpha": config.pop("lora_alpha"), "use_effective_conv2d": cores}
        own = {path: _misfit(layer, shapes.get(path, layer.weight_shape), cores) for path, layer in layers.items()}
        refused = {path: reason for path, reason in own.items() if reason}
        return PeftPlan(config, refused={**refused, **refuse_biases(layers)})


def _misfit(layer: LoHa, shape: Shape, cores: bool) -> str | None:
    """The reason why PEFT makes another LoHa: it has cores for each kernel of more than a point, or for none."""
    if len(shape) > MOST_DIMENSIONS:
        return f"it changes a weight of shape {shape}, for which PEFT has no LoHa."
    if "t1" in layer.tensors:
        return None if prod(shape[2:]) > 1 else "it has cores for a kernel of one point, for which PEFT makes none."
    if cores and prod(shape[2:]) > 1:
        return "it has no cores and others have, and PEFT makes them for all convolutions or for none."
    return None


LOHA = _LoHaMethod(
    layer=LoHa,
    group="loha",
    leaves=tuple(
        Leaf(name, f"hada_{name}", f"hada_{name}", by_rows=name in ("w1_a", "w2_a"))
        for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")
    ),
    patterns=("w1_a w1_b w2_a w2_b t1? t2?",),
    takes_shape=True,
    with_magnitude=True,
    peft_type="LOHA",
    peft_options=True,
)
