"""Device and precision of a run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from accelerate import Accelerator

from lorica.errors import ConfigError
from lorica.training.config.adapter import ComputeSettings

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def device_of(accelerator: Accelerator) -> torch.device:
    """Device of this process; with several on a CPU accelerate numbers it, though there is but one."""
    device = accelerator.device
    return torch.device("cpu") if device.type == "cpu" else device


def precision_of(settings: ComputeSettings, accelerator: Accelerator) -> torch.dtype:
    """Precision that a step computes in: if unset, that of a half base, or else of ``accelerate launch``.

    Raises:
        ConfigError: for fp16 without a GPU.
    """
    half = settings.base_precision if settings.base_precision in DTYPES else None
    launched = str(accelerator.mixed_precision)
    dtype = DTYPES[settings.mixed_precision or half or (launched if launched in DTYPES else "no")]
    if dtype is torch.float16 and accelerator.device.type == "cpu":
        name = "mixed_precision" if settings.mixed_precision else "base_precision"
        raise ConfigError(f"{name} is fp16, which needs a GPU; on this machine use bf16 or leave it out.")
    return dtype


def autocast(device: str, precision: torch.dtype) -> AbstractContextManager[None]:
    """Run the model in a precision within the ``with`` block."""
    if precision is torch.float32:
        return nullcontext()
    return cast("AbstractContextManager[None]", torch.autocast(device, precision))
