"""A tiny base model and an adapter for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lorica
from lorica.runtime.model.targets import choose_modules, components_of
from lorica.runtime.trainable.trainable import Trainable
from lorica.training.recipes.load import load_pipeline
from tiny_base import save_tiny_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose adapter changes pictures visibly."""
    unet = components_of(load_pipeline(base))["unet"]
    trainable = Trainable({"unet": unet}, {"unet": choose_modules(unet, "attention")}, rank=3)
    with torch.no_grad():
        for parameter in trainable.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return lorica.write(trainable.adapter(), tmp_path_factory.mktemp("adapter") / "loud.safetensors")
