"""Every random number of a run: a function of the seed, the step and the purpose."""

from __future__ import annotations

import torch

from lorica.runtime.trainable.random_keys import keyed_generator


def generator(seed: int, step: int, purpose: str, device: str | torch.device = "cpu") -> torch.Generator:
    """Return the generator for one use at one step."""
    return keyed_generator(f"{seed}/{step}/{purpose}", device)
