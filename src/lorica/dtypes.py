"""Floating-point dtypes by the names that users give."""

from __future__ import annotations

import torch

from lorica.errors import UnknownNameError

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


def dtype_named(name: str | None) -> torch.dtype | None:
    """Dtype of a name; None for None, which leaves the choice to the caller.

    Raises:
        UnknownNameError: if there is no such dtype.
    """
    if name is None:
        return None
    if name not in DTYPES:
        raise UnknownNameError.choose("dtype", name, DTYPES)
    return DTYPES[name]
