"""Randomness without state: a generator is a function of the text that names its use."""

from __future__ import annotations

from hashlib import blake2b

import torch


def keyed_generator(key: str, device: str | torch.device = "cpu") -> torch.Generator:
    """Return the generator that a key names: the same one on every run, whatever ran before."""
    digest = blake2b(key.encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)  # keep 63 bits
