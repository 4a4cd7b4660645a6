"""OFTv2 in files: ``oft_R`` of OneTrainer and PEFT."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import isqrt, prod, sqrt
from typing import Any

import torch
from torch import Tensor

from lorica.adapters import AdapterLayer, OFTv2
from lorica.formats.methods.method import Form, Leaf, Method, ModuleTensors, switch
from lorica.formats.methods.peft import PeftModule, PeftPlan, refuse_biases
from lorica.formats.peft_config import CONFIG_FILE, make_targets
from lorica.models.folding import Shape

SERIES_SINCE = "0.18.0"  # the version of PEFT that changed the series of its OFT to the one that it has now
COFT_EPS = 6e-5  # PEFT's, for the constraint of an OFT
_FEWEST_TERMS = 3  # of the series that a layer computes; PEFT's with fewer is no rotation, not even nearly


class _OFTv2Method(Method[OFTv2]):
    def tells_size(self, tensors: Mapping[str, Tensor]) -> bool:
        # One block may turn all inputs, however many there are.
        return "oft_v2.vectors" not in tensors or tensors["oft_v2.vectors"].shape[:1] != (1,)

    def build(self, given: ModuleTensors) -> OFTv2:
        given.check_dimensions(vectors=2)
        vectors = given.tensors["vectors"]
        block = (1 + isqrt(1 + 8 * vectors.shape[-1])) // 2
        own, inputs = len(vectors) * block, None if given.shape is None else prod(given.shape[1:])
        shared = len(vectors) == 1 and inputs is not None and inputs > block
        scaled = "scaled" in given.tensors
        width = inputs if shared else own
        return OFTv2(vectors, in_features=width, scaled=scaled, shared=shared, bias=given.bias)

    def forms(self, layer: OFTv2) -> Iterator[Form]:
        for form in super().forms(layer):
            yield {**form, "oft_v2.scaled": switch(True)} if layer.scaled else form

    def from_peft(self, layer: OFTv2, told: PeftModule) -> AdapterLayer | str:
        vectors, config = layer.tensors["vectors"], told.config
        if "use_cayley_neumann" not in config:
            return (
                f"only an {CONFIG_FILE} with use_cayley_neumann tells how its rotation is computed, and there is none."
            )
        if told.shape is not None and prod(told.shape[2:]) > 1:
            return (
                "it is an OFT of a convolution with a kernel, which PEFT does not compute as a change of the weight: "
                "where patches overlap it counts their pixels several times."
            )
        shared = bool(config.get("block_share"))
        if shared and told.shape is None:
            return (
                "its one block is shared by all inputs, and only the model tells how many those are. Name the target."
            )
        terms = _terms(config)
        if isinstance(terms, str):
            return terms
        inputs = prod(told.shape[1:]) if shared and told.shape is not None else None
        held = _constrained(vectors, float(config.get("eps", COFT_EPS))) if config.get("coft") else vectors
        return OFTv2(held, in_features=inputs, shared=shared, terms=terms, turns_kernel=False)

    def to_peft(self, layer: OFTv2, name: str) -> Form | None:
        del name
        return self.peft_tensors(layer)

    def peft_plan(self, layers: Mapping[str, OFTv2], shapes: Mapping[str, Shape]) -> PeftPlan:
        other = "it turns as OneTrainer's OFT does (scaled, or the weight of a kernel), and PEFT's does not."
        refused = {path: other for path, layer in layers.items() if layer.scaled or layer.turns_kernel}
        kernels = (path for path in layers if prod(shapes.get(path, ())[2:]) > 1)
        refused |= dict.fromkeys(kernels, "it is of a convolution with a kernel, for which PEFT has no such change.")
        common: dict[str, set[Any]] = {
            "block_share": {layer.shared for layer in layers.values()},
            "num_cayley_neumann_terms": {layer.terms for layer in layers.values()},
            "oft_block_size": {layer.rank for layer in layers.values()},
        }
        for name, values in common.items():
            if len(values) > 1:
                told = ", ".join(sorted(map(str, values)))
                refused |= dict.fromkeys(layers, f"PEFT has one {name} for all modules, and they have several: {told}.")
        share, terms, size = (values.pop() for values in common.values())
        config = {
            "target_modules": make_targets(layers), "r": 0, "oft_block_size": size, "bias": "none", "coft": False,
            "eps": COFT_EPS, "block_share": share, "use_cayley_neumann": terms is not None,
            "num_cayley_neumann_terms": terms or 5, "fan_in_fan_out": False, "peft_version": SERIES_SINCE,
        }  # fmt: skip
        return PeftPlan(config, refused={**refused, **refuse_biases(layers)})


def _terms(config: Mapping[str, Any]) -> int | str | None:
    """The terms of the series of a rotation, None if it is no series, or why it cannot be read."""
    if not config["use_cayley_neumann"]:
        return None
    if _numbers(str(config.get("peft_version") or "0")) < _numbers(SERIES_SINCE):
        return (
            f"its {CONFIG_FILE} names no peft_version from {SERIES_SINCE} on, and before that PEFT had another series "
            "for its rotation: PEFT of today cannot read it either."
        )
    terms = int(config.get("num_cayley_neumann_terms", 5))
    if terms < _FEWEST_TERMS:
        return f"its {CONFIG_FILE} says num_cayley_neumann_terms={terms}; {_FEWEST_TERMS} or more can be read."
    return terms


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version as PEFT writes it: ``0.18.0``, ``0.19.0.dev0@abc``."""
    return tuple(map(int, re.findall(r"\d+", version.partition("@")[0])[:2]))


def _constrained(vectors: Tensor, eps: float) -> Tensor:
    """The vectors as ``coft`` has them in use: each block's matrix no longer than ``eps / sqrt(n)``."""
    limit = eps / sqrt(len(vectors))
    length = vectors.float().norm(dim=1, keepdim=True) * sqrt(2)  # of the whole matrix, which has each number twice
    return torch.where(length > limit, vectors.float() * (limit / length), vectors.float()).to(vectors.dtype)


OFT_V2 = _OFTv2Method(
    layer=OFTv2,
    group="oft_v2",
    leaves=(
        Leaf("vectors", "oft_R.weight", "oft_R.weight"), Leaf("scaled", "oft_R.scaled_oft", is_flag=True),
    ),
    patterns=("vectors scaled?",),
    alpha=None,
    peft_type="OFT",
    peft_options=True,
)  # fmt: skip
