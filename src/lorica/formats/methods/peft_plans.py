"""What PEFT's configuration must say so that PEFT builds the layers of an adapter, or why it cannot: one plan a method.

PEFT makes its layers from the configuration and the model, and then fills in the tensors of the file: they must be of
the very shapes that it makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import Tensor

from lorica.adapters import AdapterLayer
from lorica.adapters.base import same
from lorica.formats.methods.peft_lokr import plan_lokr
from lorica.formats.peft_config import COFT_EPS, SERIES_SINCE, expression, make_config, make_targets

_MOST_DIMENSIONS = 4  # of a weight: PEFT has no LoHa for Conv3d
Layers = Mapping[str, AdapterLayer]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How PEFT holds the layers of one model.

    Args:
        config: its configuration.
        shared: tensors that are there once for all modules, by key.
        refused: path to why PEFT cannot hold the layer there.
    """

    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    shared: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    refused: Mapping[str, str] = field(default_factory=dict[str, str])


def plan(layers: Layers, shapes: Shapes) -> Plan:
    """Return how PEFT holds the layers of one model, whose weights have these shapes, as far as they are known."""
    kinds = {layer.kind for layer in layers.values()}
    strange = sorted(kinds - PLANS.keys())
    if strange:
        known = ", ".join(PLANS)
        reason = "{}, and it is written for " + known + " layers alone"
        return Plan(refused={p: reason.format(one.kind) for p, one in layers.items() if one.kind in strange})
    if len(kinds) > 1:
        reason = f"the format holds one method, and this adapter has several: {', '.join(sorted(kinds))}."
        return Plan(refused=dict.fromkeys(layers, reason))
    (kind,) = kinds
    made = PLANS[kind](layers, shapes)
    fixed = {"inference_mode": True, "base_model_name_or_path": None}
    return made if made.refused else Plan({**fixed, **made.config}, made.shared)


def _lora(layers: Layers, _shapes: Shapes) -> Plan:
    settings = {"bias": "none", "use_rslora": False, "use_dora": False, "fan_in_fan_out": False}
    return Plan({**settings, **make_config(layers), "peft_type": "LORA"})


def _dora(layers: Layers, shapes: Shapes) -> Plan:
    inner = {path: layer.inner.kind for path, layer in layers.items()}  # type: ignore[attr-defined]
    refused = {path: f"it is a DoRA on a {kind}, and PEFT's are on LoRAs." for path, kind in inner.items()}
    refused = {path: reason for path, reason in refused.items() if inner[path] != "lora"}
    return Plan(_lora(layers, shapes).config, refused=refused)


def _loha(layers: Layers, shapes: Shapes) -> Plan:
    config = make_config(layers)
    cores = any("t1" in layer.tensors for layer in layers.values())
    alphas = {"alpha": config.pop("lora_alpha"), "use_effective_conv2d": cores}
    reasons = {
        path: _strange_loha(layer, shapes.get(path, layer.weight_shape), cores) for path, layer in layers.items()
    }
    refused = {path: reason for path, reason in reasons.items() if reason}
    return Plan({**config, **alphas, "peft_type": "LOHA"}, refused={**refused, **_with_bias(layers)})


def _strange_loha(layer: AdapterLayer, shape: tuple[int, ...], cores: bool) -> str | None:
    """Return why PEFT makes another LoHa of a weight: it has cores for each kernel of more than a point, or none."""
    if len(shape) > _MOST_DIMENSIONS:
        return f"it changes a weight of shape {shape}, for which PEFT has no LoHa."
    if "t1" in layer.tensors:
        return None if prod(shape[2:]) > 1 else "it has cores for a kernel of one point, for which PEFT makes none."
    if cores and prod(shape[2:]) > 1:
        return "it has no cores and others have, and PEFT makes them for all convolutions or for none."
    return None


def _lokr(layers: Layers, _shapes: Shapes) -> Plan:
    config, refused = plan_lokr(layers)
    return Plan({**config, "peft_type": "LOKR"}, refused={**refused, **_with_bias(layers)})


def _oft(layers: Layers, shapes: Shapes) -> Plan:
    settings = {path: layer.settings for path, layer in layers.items()}
    other = "it turns as OneTrainer's OFT does (scaled, or the weight of a kernel), and PEFT's does not."
    refused = {path: other for path, own in settings.items() if own["scaled"] or own["turns_kernel"]}
    kernels = (path for path in layers if prod(shapes.get(path, ())[2:]) > 1)
    refused |= dict.fromkeys(kernels, "it is of a convolution with a kernel, for which PEFT has no such change.")
    common = {
        "block_share": {own["shared"] for own in settings.values()},
        "num_cayley_neumann_terms": {own["terms"] for own in settings.values()},
        "oft_block_size": {layer.rank for layer in layers.values()},
    }
    for name, values in common.items():
        if len(values) > 1:
            told = ", ".join(sorted(map(str, values)))
            refused |= dict.fromkeys(layers, f"PEFT has one {name} for all modules, and they have several: {told}.")
    share, terms, size = (values.pop() for values in common.values())
    config = {
        "peft_type": "OFT", "target_modules": make_targets(layers), "r": 0, "oft_block_size": size, "bias": "none",
        "coft": False, "eps": COFT_EPS, "block_share": share, "use_cayley_neumann": terms is not None,
        "num_cayley_neumann_terms": terms or 5, "fan_in_fan_out": False,
        "peft_version": SERIES_SINCE,
    }  # fmt: skip
    return Plan(config, refused={**refused, **_with_bias(layers)})


def _ia3(layers: Layers, shapes: Shapes) -> Plan:
    refused = _with_bias(layers)
    for path, layer in layers.items():
        shape = tuple(layer.tensors["scale"].shape)
        if not layer.settings["is_factor"]:
            refused[path] = "its numbers are differences from 1, as LyCORIS stores them, and PEFT's are the factors."
        elif shape != _factors(layer, len(shapes.get(path, shape))):
            refused[path] = f"its numbers have shape {shape}, and PEFT's are (out, 1), (1, in) or (1, channels, 1, 1)."
    on_inputs = [path for path, layer in layers.items() if layer.settings["on_input"]]
    config = {"target_modules": make_targets(layers), "feedforward_modules": expression(on_inputs) or []}
    return Plan({"peft_type": "IA3", **config, "fan_in_fan_out": False}, refused=refused)


def _factors(layer: AdapterLayer, dimensions: int) -> tuple[int, ...]:
    """Return the shape that PEFT has for the factors of a weight of that many dimensions."""
    count, on_input = layer.tensors["scale"].numel(), layer.settings["on_input"]
    if dimensions > 2:
        return (1, count, *[1] * (dimensions - 2))
    return (1, count) if on_input else (count, 1)


def _vera(layers: Layers, _shapes: Shapes) -> Plan:
    wide = {name: max((layer.tensors[name] for layer in layers.values()), key=Tensor.numel) for name in _PARTS}
    own = "its random matrices are its own, and PEFT has one pair for all modules, of which each takes a part."
    refused = {path: own for path, layer in layers.items() if not _is_part(layer, wide)}
    settings = {"r": len(wide["shared_a"]), "save_projection": True, "projection_prng_key": 0, "vera_dropout": 0.0}
    config = {"peft_type": "VERA", "target_modules": make_targets(layers), "bias": "none", "fan_in_fan_out": False}
    shared = {VERA_SHARED[name]: tensor for name, tensor in wide.items()}
    return Plan({**config, **settings}, shared, {**refused, **_with_bias(layers)})


VERA_SHARED = {"shared_a": "base_model.vera_A", "shared_b": "base_model.vera_B"}
_PARTS = tuple(VERA_SHARED)


def _is_part(layer: AdapterLayer, wide: Mapping[str, Tensor]) -> bool:
    """Tell whether a layer's matrices are the first columns and the first rows of the widest ones."""
    a, b = (layer.tensors[name] for name in _PARTS)
    if len(a) != len(wide["shared_a"]):
        return False
    return same(a, wide["shared_a"][:, : a.shape[1]]) and same(b, wide["shared_b"][: len(b)])


def _with_bias(layers: Layers) -> dict[str, str]:
    reason = "it changes the bias too, which PEFT does beside a LoRA only."
    return {path: reason for path, layer in layers.items() if "bias" in layer.tensors}


# A layer's kind to how PEFT holds it.
PLANS: dict[str, Callable[[Layers, Shapes], Plan]] = {
    "lora": _lora,
    "dora": _dora,
    "loha": _loha,
    "lokr": _lokr,
    "oft_v2": _oft,
    "ia3": _ia3,
    "vera": _vera,
}
