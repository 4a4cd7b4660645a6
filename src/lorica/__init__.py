"""Lorica trains, loads, runs, combines and explains low-rank adapters for diffusion models.

The public names are loaded when they are first used, so ``import lorica`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorica.adapters import KINDS as KINDS
    from lorica.adapters import Adapter as Adapter
    from lorica.adapters import AdapterLayer as AdapterLayer
    from lorica.adapters import LoCon as LoCon
    from lorica.adapters import LoRA as LoRA
    from lorica.adapters import Report as Report
    from lorica.demo.bundle import bundled_model as bundled_model
    from lorica.errors import LoRAError as LoRAError
    from lorica.formats import read as read
    from lorica.formats import write as write
    from lorica.runtime import Loras as Loras
    from lorica.runtime import attach as attach
    from lorica.runtime.pipeline.schedule import Shape as Shape
    from lorica.runtime.prompt.prompt import prompt as prompt
    from lorica.tools.convert import convert as convert
    from lorica.tools.inspect import inspect as inspect
    from lorica.training.config.config import RunConfig as RunConfig
    from lorica.training.run import TrainResult as TrainResult
    from lorica.training.run import train as train

_HOMES: dict[str, str] = {
    "KINDS": "lorica.adapters",
    "Adapter": "lorica.adapters",
    "AdapterLayer": "lorica.adapters",
    "LoCon": "lorica.adapters",
    "LoRA": "lorica.adapters",
    "LoRAError": "lorica.errors",
    "Loras": "lorica.runtime",
    "Report": "lorica.adapters",
    "RunConfig": "lorica.training.config.config",
    "TrainResult": "lorica.training.run",
    "Shape": "lorica.runtime.pipeline.schedule",
    "attach": "lorica.runtime",
    "bundled_model": "lorica.demo.bundle",
    "convert": "lorica.tools.convert",
    "inspect": "lorica.tools.inspect",
    "prompt": "lorica.runtime.prompt.prompt",
    "read": "lorica.formats",
    "train": "lorica.training.run",
    "write": "lorica.formats",
}

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Public name of the package, imported from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lorica' has no attribute {name!r}; public names: {', '.join(_HOMES)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*_HOMES, "__version__"])
