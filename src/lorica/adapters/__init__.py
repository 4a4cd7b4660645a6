"""Adapter methods, one a file: tensors in, change of weight out."""

from __future__ import annotations

from lorica.adapters.adapter import Adapter
from lorica.adapters.base import ANY, AdapterLayer, Factors
from lorica.adapters.bias import BiasOnly
from lorica.adapters.full import Full
from lorica.adapters.locon import LoCon
from lorica.adapters.lora import LoRA
from lorica.adapters.norm import Norm
from lorica.adapters.report import Report, UnusedKey
from lorica.adapters.set_weight import SetWeight

KINDS: dict[str, type[AdapterLayer]] = {cls.kind: cls for cls in (LoRA, LoCon, Full, SetWeight, Norm, BiasOnly)}

__all__ = [
    "ANY",
    "KINDS",
    "Adapter",
    "AdapterLayer",
    "BiasOnly",
    "Factors",
    "Full",
    "LoCon",
    "LoRA",
    "Norm",
    "Report",
    "SetWeight",
    "UnusedKey",
]
