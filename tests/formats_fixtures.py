"""Files as keys and shapes: their tensors are filled from a seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "formats" / "files"
READ_ONLY = ("xlabs", "uso", "bfl_control", "control_lora", "hcp", "cloneofsimo")
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def describe(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def filled(shapes: dict[str, list[int]], dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Return tensors of the shapes; an alpha is half the usual rank."""
    source = torch.Generator().manual_seed(7)
    return {
        key: torch.randn(shape, generator=source).to(dtype) if shape else torch.tensor(1.5, dtype=dtype)
        for key, shape in shapes.items()
    }
