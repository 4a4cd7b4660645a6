"""VeRA in files: PEFT's two vectors for each module, and two matrices for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from torch import Tensor

from lorica.adapters import VeRA
from lorica.adapters.base import same
from lorica.formats.methods.method import Form, Leaf, Method, ModuleTensors
from lorica.formats.methods.peft import PeftPlan, refuse_biases
from lorica.formats.peft_config import make_targets
from lorica.models.folding import Shape


class _VeRAMethod(Method[VeRA]):
    def build(self, given: ModuleTensors) -> VeRA:
        given.check_dimensions(lambda_b=1, lambda_d=1, shared_a=2, shared_b=2)
        tensors = dict(given.tensors)  # of the matrices its own part: the first columns and the first rows
        tensors["shared_b"] = tensors["shared_b"][: len(tensors["lambda_b"])]
        if given.shape is not None:
            tensors["shared_a"] = tensors["shared_a"][:, : prod(given.shape[1:])]
        return VeRA(**tensors, bias=given.bias)

    def to_peft(self, layer: VeRA, name: str) -> Form | None:
        del name
        return self.peft_tensors(layer)

    def peft_plan(self, layers: Mapping[str, VeRA], shapes: Mapping[str, Shape]) -> PeftPlan:
        del shapes
        wide = {
            name: max((layer.tensors[name] for layer in layers.values()), key=Tensor.numel) for name in self.peft_shared
        }
        own = "its random matrices are its own, and PEFT has one pair for all modules, of which each takes a part."
        refused = {path: own for path, layer in layers.items() if not _is_part(layer, wide)}
        config = {
            "target_modules": make_targets(layers), "r": len(wide["shared_a"]), "bias": "none", "fan_in_fan_out": False,
            "save_projection": True, "projection_prng_key": 0, "vera_dropout": 0.0,
        }  # fmt: skip
        shared = {self.peft_shared[name]: tensor for name, tensor in wide.items()}
        return PeftPlan(config, shared, {**refused, **refuse_biases(layers)})


def _is_part(layer: VeRA, wide: Mapping[str, Tensor]) -> bool:
    """Whether a layer's matrices are the first columns and the first rows of the widest ones."""
    a, b = layer.tensors["shared_a"], layer.tensors["shared_b"]
    if len(a) != len(wide["shared_a"]):
        return False
    return same(a, wide["shared_a"][:, : a.shape[1]]) and same(b, wide["shared_b"][: len(b)])


VERA = _VeRAMethod(
    layer=VeRA,
    group="vera",
    leaves=(
        Leaf("lambda_b", peft="vera_lambda_b"), Leaf("lambda_d", peft="vera_lambda_d"), Leaf("shared_a"),
        Leaf("shared_b"),
    ),
    patterns=("lambda_b lambda_d shared_a shared_b",),
    alpha=None,
    can_be_cut=False,
    peft_type="VERA",
    peft_shared={"shared_a": "base_model.vera_A", "shared_b": "base_model.vera_B"},
    peft_lacking="the shared matrices of its VeRA are not in the file (save_projection was False); save it with them.",
)  # fmt: skip
