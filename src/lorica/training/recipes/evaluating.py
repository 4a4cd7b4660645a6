"""Look at a model in training as it will be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Switch dropout off and back."""
    before = [(part, part.training) for part in parts]
    try:
        for part, _ in before:
            part.eval()
        yield
    finally:
        for part, training in before:
            part.train(training)
