"""Randomness without state: a generator is a function of its key, so resuming a run restores nothing and is exact."""

from __future__ import annotations

from hashlib import blake2b

import torch


def generator(*key: object) -> torch.Generator:
    """The generator of one use, such as ``generator(seed, step, "noise/3")``: the same on every run and machine.

    It is on the CPU, so that what is drawn does not depend on the device.
    """
    digest = blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)  # keep 63 bits
