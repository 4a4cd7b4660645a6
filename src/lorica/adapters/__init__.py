"""Adapter methods, one a file: tensors in, change of weight out."""

from __future__ import annotations

from lorica.adapters.adapter import Adapter
from lorica.adapters.base import AdapterLayer, Factors
from lorica.adapters.locon import LoCon
from lorica.adapters.lora import LoRA
from lorica.adapters.report import Report, UnusedKey

KINDS: dict[str, type[AdapterLayer]] = {cls.kind: cls for cls in (LoRA, LoCon)}

__all__ = ["KINDS", "Adapter", "AdapterLayer", "Factors", "LoCon", "LoRA", "Report", "UnusedKey"]
