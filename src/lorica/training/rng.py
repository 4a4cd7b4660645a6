"""Every random number of a run: a function of the seed, the step and the purpose."""

from __future__ import annotations

from hashlib import blake2b

import torch


def generator(seed: int, step: int, purpose: str, device: str | torch.device = "cpu") -> torch.Generator:
    """Return the generator for one use at one step: the same one on every run, whatever ran before."""
    digest = blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)  # keep 63 bits
