"""What every test shares: no network, one thread a process, a known seed, and the bundled base model."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # set before huggingface_hub is imported
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

import lorica
from lorica.models import bundled as bundled_place

torch.set_num_threads(1)  # tensors are tiny, and tests run side by side


@pytest.fixture(autouse=True)
def _known_randomness() -> None:
    """Start each test from the same global seed, so that a failure can be repeated."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def bundled() -> Path:
    """The folder of the bundled base model."""
    if bundled_place.missing_weights():
        pytest.skip("the bundled model has no weights yet; `make base` makes them")
    return lorica.bundled_model()
