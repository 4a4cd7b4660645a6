"""LoRA in files: ``lora_down`` and ``lora_up``, or ``lora_A`` and ``lora_B``; PEFT has those of tables turned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lorica.adapters import AdapterLayer, LoRA
from lorica.adapters.base import same
from lorica.errors import ShapeError
from lorica.formats.methods.method import BIAS, Form, Leaf, Method, ModuleTensors
from lorica.formats.methods.peft import PeftPlan, scaled
from lorica.formats.peft_config import make_config
from lorica.models.folding import Shape

DOWN = Leaf(
    "down", "lora_down.weight", "lora_A.weight", ("lora_A", "lora.down.weight", "lora_linear_layer.down.weight")
)
UP = Leaf(
    "up", "lora_up.weight", "lora_B.weight", ("lora_B", "lora.up.weight", "lora_linear_layer.up.weight"), by_rows=True
)
# What the paths of embedding tables end in, which no shape tells from those of a Linear.
_TABLES = ("token_embedding", "position_embedding", "embed_tokens", "shared", "relative_attention_bias")


class _LoRAMethod(Method[LoRA]):
    def build(self, given: ModuleTensors) -> LoRA:
        if "table_down" in given.tensors:
            return _table(given)
        if "q" in given.tensors:
            return _weighted(given)
        down, up = given.tensors["down"], given.tensors["up"]
        if up.ndim == 2 < down.ndim:  # of a convolution ``up`` may be stored as the matrix that it is
            up = up.reshape(*up.shape, *[1] * (down.ndim - 2))
        layer = LoRA(down, up, given.alpha, bias=given.bias)
        if "bias" not in given.tensors:
            return layer
        return LoRA(down, up, given.alpha, bias=scaled(given.tensors["bias"], layer.scaling))

    def forms(self, layer: LoRA) -> Iterator[Form]:
        pair: Form = {"lora.down": layer.down, "lora.up": layer.up}
        bias = layer.tensors.get("bias")
        if bias is None:
            yield pair
            if layer.down.ndim == 2:
                yield {"lora.table_down": layer.up.T, "lora.table_up": layer.down.T}
            return
        yield {**pair, BIAS: bias}
        unscaled = _unscaled(layer, bias)
        if unscaled is not None:
            yield {**pair, "lora.bias": unscaled}

    def unwritable(self, layer: LoRA, meaning: str) -> str:
        if meaning != BIAS:
            return super().unwritable(layer, meaning)
        return (
            f"the format stores a bias divided by its scaling, {layer.alpha:g} / {layer.rank}, and there is none "
            "that gives this one again exactly."
        )

    def pairs(self, layer: LoRA) -> tuple[tuple[str, str], ...]:
        del layer
        return (("lora.up", "lora.down"),)

    def to_peft(self, layer: LoRA, name: str) -> Form | None:
        if not name.endswith(_TABLES) or "bias" in layer.tensors:
            return None
        return {"lora_embedding_A": layer.up.T, "lora_embedding_B": layer.down.T}

    def peft_plan(self, layers: Mapping[str, LoRA], shapes: Mapping[str, Shape]) -> PeftPlan:
        del shapes
        return PeftPlan(lora_config(layers))


def lora_config(layers: Mapping[str, AdapterLayer]) -> dict[str, Any]:
    """PEFT's configuration of LoRAs."""
    settings = {"bias": "none", "use_rslora": False, "use_dora": False, "fan_in_fan_out": False}
    return {**settings, **make_config(layers)}


def _weighted(given: ModuleTensors) -> LoRA:
    """T-LoRA: ``p @ diag(lambda) @ q``, less the same of what training began with, where the file has it."""
    given.check_dimensions(q=2, p=2, lambda_=2)
    halves: list[tuple[Tensor, Tensor]] = []
    for start, sign in (("", 1), ("base_", -1)):
        if f"{start}q" in given.tensors:
            down, up, weights = (given.tensors[f"{start}{name}"] for name in ("q", "p", "lambda_"))
            if tuple(weights.shape) != (1, len(down)) or up.shape[-1] != len(down):
                got = ", ".join(str(tuple(each.shape)) for each in (up, weights, down))
                raise ShapeError(f"T-LoRA needs p (out, r), lambda (1, r) and q (r, in); got {got}.")
            halves.append((down, (up.float() * weights.float() * sign)))
    downs, ups = [down for down, _ in halves], [up for _, up in halves]
    alpha = None if given.alpha is None else given.alpha * len(halves)  # of as many times the rank
    down = torch.cat(downs) if len(downs) > 1 else downs[0]
    return LoRA(down, torch.cat(ups, dim=1) if len(ups) > 1 else ups[0], alpha, bias=given.bias)


def _table(given: ModuleTensors) -> LoRA:
    if given.bias is not None:
        raise ShapeError(
            f"an embedding table has no bias to change, and there are {given.bias.numel()} numbers for one."
        )
    given.check_dimensions(table_down=2, table_up=2)
    return LoRA(given.tensors["table_up"].T, given.tensors["table_down"].T, given.alpha)


def _unscaled(layer: LoRA, bias: Tensor) -> Tensor | None:
    """The bias of which PEFT's scaling makes the layer's own, or None if there is none."""
    if layer.alpha == layer.rank:
        return bias
    if layer.alpha == 0:
        return None
    dtypes = dict.fromkeys((layer.down.dtype, bias.dtype, torch.float32, torch.float64))
    candidates = ((bias.double() / layer.scaling).to(dtype) for dtype in dtypes)
    return next((each for each in candidates if same(scaled(each, layer.scaling), bias)), None)


LORA = _LoRAMethod(
    layer=LoRA,
    group="lora",
    leaves=(
        DOWN, UP,
        Leaf("bias", peft="lora_B.bias"),  # counts times the scaling, where a layer's own counts once
        Leaf("q", also=("q_layer.weight",)), Leaf("p", also=("p_layer.weight",)),
        Leaf("lambda_", also=("lambda_layer",)), Leaf("base_q", also=("base_q.weight",)),
        Leaf("base_p", also=("base_p.weight",)), Leaf("base_lambda_", also=("base_lambda",)),
        Leaf("table_down", peft="lora_embedding_A"), Leaf("table_up", peft="lora_embedding_B"),
    ),
    patterns=("down up bias?", "table_down table_up", "q p lambda_", "q p lambda_ base_q base_p base_lambda_"),
    with_magnitude=True,
    peft_type="LORA",
)  # fmt: skip
