"""Which views of each picture there are, and which one a step sees."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lorica.data.images import View

Random = Callable[[str], torch.Generator]  # purpose to generator

CENTER = View()


def views_of(digest: str, random: Random, *, crops: int, flip: bool) -> tuple[View, ...]:
    """Return the views of one picture: ``crops`` cuts (one means the middle), each also mirrored with ``flip``.

    Cuts at random depend on the run's seed and the picture's ``digest``, so that they can be cached.
    """
    cuts = [CENTER] if crops == 1 else _random_cuts(crops, random(f"cuts/{digest}"))
    return tuple(cut._replace(flip=mirrored) for cut in cuts for mirrored in ((False, True) if flip else (False,)))


def choose_view(count: int, generator: torch.Generator) -> int:
    """Draw the number of one of ``count`` views."""
    return int(torch.randint(count, (), generator=generator)) if count > 1 else 0


def _random_cuts(count: int, generator: torch.Generator) -> list[View]:
    return [View(left, top) for left, top in torch.rand(count, 2, generator=generator).tolist()]
