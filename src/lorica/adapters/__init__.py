"""Adapter methods, one a file: tensors in, change of weight out."""

from __future__ import annotations

from lorica.adapters.adapter import Adapter
from lorica.adapters.base import ANY, AdapterLayer, Factors
from lorica.adapters.bias import BiasOnly
from lorica.adapters.dora import DoRA
from lorica.adapters.full import Full
from lorica.adapters.locon import LoCon
from lorica.adapters.loha import LoHa
from lorica.adapters.lokr import LoKr
from lorica.adapters.lora import LoRA
from lorica.adapters.norm import Norm
from lorica.adapters.report import Report, UnusedKey
from lorica.adapters.set_weight import SetWeight

KINDS: dict[str, type[AdapterLayer]] = {
    cls.kind: cls for cls in (LoRA, LoCon, DoRA, LoHa, LoKr, Full, SetWeight, Norm, BiasOnly)
}

__all__ = [
    "ANY",
    "KINDS",
    "Adapter",
    "AdapterLayer",
    "BiasOnly",
    "DoRA",
    "Factors",
    "Full",
    "LoCon",
    "LoHa",
    "LoKr",
    "LoRA",
    "Norm",
    "Report",
    "SetWeight",
    "UnusedKey",
]
