"""Adapter methods, one a file: tensors in, change of weight out."""

from __future__ import annotations

from lorica.adapters.adapter import Adapter
from lorica.adapters.base import ANY, AdapterLayer, Factors
from lorica.adapters.bias import BiasOnly
from lorica.adapters.boft import BOFT
from lorica.adapters.dora import DoRA
from lorica.adapters.full import Full
from lorica.adapters.glora import GLoRA
from lorica.adapters.ia3 import IA3
from lorica.adapters.joined_rows import JoinedRows
from lorica.adapters.locon import LoCon
from lorica.adapters.loha import LoHa
from lorica.adapters.lokr import LoKr
from lorica.adapters.lora import LoRA
from lorica.adapters.norm import Norm
from lorica.adapters.oft import OFT
from lorica.adapters.oft_v2 import OFTv2
from lorica.adapters.report import Report, UnusedKey
from lorica.adapters.residual import Places, Residual
from lorica.adapters.set_weight import SetWeight
from lorica.adapters.vera import VeRA

KINDS: dict[str, type[AdapterLayer]] = {
    cls.kind: cls
    for cls in (
        LoRA, LoCon, Residual, DoRA, LoHa, LoKr, GLoRA, IA3, OFT, OFTv2, BOFT, VeRA, Full, SetWeight, Norm, BiasOnly,
        JoinedRows,
    )
}  # fmt: skip

__all__ = [
    "ANY",
    "BOFT",
    "IA3",
    "KINDS",
    "OFT",
    "Adapter",
    "AdapterLayer",
    "BiasOnly",
    "DoRA",
    "Factors",
    "Full",
    "GLoRA",
    "JoinedRows",
    "LoCon",
    "LoHa",
    "LoKr",
    "LoRA",
    "Norm",
    "OFTv2",
    "Places",
    "Report",
    "Residual",
    "SetWeight",
    "UnusedKey",
    "VeRA",
]
