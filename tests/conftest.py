"""What every test shares: no network, one thread a process, nothing left behind on the global generator."""

from __future__ import annotations

import os

os.environ.setdefault(
    "HF_HUB_OFFLINE", "1"
)  # before anything imports huggingface_hub: a test that downloads must say so
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

torch.set_num_threads(1)  # tensors are tiny, and tests run side by side


@pytest.fixture(autouse=True)
def _known_randomness() -> None:
    """Start each test from the same global seed, so that a failure can be repeated."""
    torch.manual_seed(0)
