"""Views of a picture: where it is cut, to what size, and the tensor of that. Plain functions of picture and view."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


class View(NamedTuple):
    """View of a picture: the place of the cut, 0 (left, top) to 1 (right, bottom), and whether it is mirrored."""

    left: float = 0.5
    top: float = 0.5
    flip: bool = False


def views_of(digest: str, random: Callable[[str], torch.Generator], *, crops: int, flip: bool) -> tuple[View, ...]:
    """Views of one picture: ``crops`` cuts (one means the centre), each also mirrored with ``flip``.

    Random cuts depend on the run's seed and the picture's ``digest`` alone, so that they can be cached.

    Args:
        digest: the digest of the picture's bytes.
        random: purpose to generator.
        crops: number of cuts.
        flip: whether each cut is also mirrored.
    """
    cuts = [View()] if crops == 1 else _random_cuts(crops, random(f"cuts/{digest}"))
    return tuple(cut._replace(flip=mirrored) for cut in cuts for mirrored in ((False, True) if flip else (False,)))


def choose_view(count: int, generator: torch.Generator) -> int:
    """Draw the number of one of ``count`` views."""
    return int(torch.randint(count, (), generator=generator)) if count > 1 else 0


def _random_cuts(count: int, generator: torch.Generator) -> list[View]:
    return [View(left, top) for left, top in torch.rand(count, 2, generator=generator).tolist()]


def fit(picture: Image.Image, height: int, width: int, view: View, interpolation: str = "lanczos") -> Image.Image:
    """Picture resized to cover ``height`` x ``width``, cut to it where ``view`` says, and mirrored if so."""
    covering = covering_size(picture.size, (width, height))
    left = round(view.left * (covering[0] - width))
    top = round(view.top * (covering[1] - height))
    across, down = picture.width / covering[0], picture.height / covering[1]
    # Only what is seen is resized: a picture of 1 x 60,000 pixels would cover 512 x 512 with 15 gigapixels.
    seen = (left * across, top * down, (left + width) * across, (top + height) * down)
    cut = picture.resize((width, height), Image.Resampling[interpolation.upper()], box=_within(seen, picture.size))
    return ImageOps.mirror(cut) if view.flip else cut


def to_tensor(picture: Image.Image) -> Tensor:
    """RGB picture as float32 ``(3, h, w)`` in -1 to 1."""
    values = np.asarray(picture, dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def fits_exactly(size: tuple[int, int], height: int, width: int) -> bool:
    """Whether a picture of ``size`` (width, height) covers the frame with nothing to cut off."""
    return covering_size(size, (width, height)) == (width, height)


def covering_size(size: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """Smallest size with the aspect of ``size`` that covers the frame; all are (width, height)."""
    scale = max(frame[0] / size[0], frame[1] / size[1])
    return max(frame[0], round(size[0] * scale)), max(frame[1], round(size[1] * scale))


def _within(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Box that no rounding puts outside of its picture."""
    return box[0], box[1], min(box[2], size[0]), min(box[3], size[1])
