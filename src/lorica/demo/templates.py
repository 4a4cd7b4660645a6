"""Templates of every figure as a mask, and the agreement of a mask found in a picture with each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lorica.demo.drawing import OUTLINE, OVERSAMPLING, RADIUS, SIDE, silhouette
from lorica.demo.masks import GRID, Box, PixelMask, box, close, shrink, slenderness, stretch
from lorica.demo.words import SHAPES

SLACK = 0.75  # pixels that a recognised figure's outline may lie off, on average


def _same(mask: PixelMask) -> PixelMask:
    return mask


def _inner(mask: PixelMask) -> PixelMask:
    return shrink(mask, round(OUTLINE))


# Pixels that are added to a box at the left, top, right and bottom.
GROWN = (
    (0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 0, 1, 0), (0, 1, 0, 1), (1, 1, 1, 1),
)  # fmt: skip

# How a figure can look as a mask: whole, whole with narrow gaps filled, or without its outline.
ASPECTS: dict[str, Callable[[PixelMask], PixelMask]] = {"whole": _same, "closed": close, "inner": _inner}


@dataclass(frozen=True, slots=True)
class Agreement:
    """Shape with the best agreement, or None where even that is not close, and the agreement, 0 to 1."""

    shape: str | None
    match: float


def agree(mask: PixelMask, aspect: str) -> Agreement:
    """Shape whose mask has the largest overlap over union with this one, both stretched to a common box.

    A box with other proportions than the shape's lowers the match by the ratio of the two. The shape counts as
    recognised when its outline lies less than ``SLACK`` pixels off on average.
    """
    if not mask.any():
        return Agreement(None, 0.0)
    templates = _templates(aspect, _size(mask))
    matches = np.max([_matches(mask, frame, templates) for frame in _frames(mask)], axis=0)
    best = int(matches.argmax())
    close_enough = matches[best] >= templates.least[best]
    return Agreement(SHAPES[best] if close_enough else None, float(matches[best]))


@dataclass(frozen=True, slots=True)
class _Templates:
    masks: NDArray[np.float32]  # (shapes, GRID, GRID)
    proportions: NDArray[np.float32]  # (shapes,), width over height
    least: NDArray[np.float32]  # (shapes,), the match at which the outline is SLACK pixels off


@cache
def _templates(aspect: str, size: str) -> _Templates:
    masks = [ASPECTS[aspect](template(shape, size)) for shape in SHAPES]
    return _Templates(
        np.stack([stretch(mask) if mask.any() else np.zeros((GRID, GRID), dtype=np.float32) for mask in masks]),
        np.array([slenderness(mask) if mask.any() else 1 for mask in masks], dtype=np.float32),
        np.array([_least(template(shape, size)) for shape in SHAPES], dtype=np.float32),
    )


def _frames(mask: PixelMask) -> list[Box]:
    """The mask's box, and boxes with a pixel more at some sides, where a thin tip may have faded."""
    (left, top, right, bottom), (height, width) = box(mask), mask.shape
    grown = (
        (max(left - a, 0), max(top - b, 0), min(right + c, width), min(bottom + d, height)) for a, b, c, d in GROWN
    )
    return list(dict.fromkeys(grown))


def _matches(mask: PixelMask, frame: Box, templates: _Templates) -> NDArray[np.float32]:
    """Agreement of the part of a mask in a frame with each template."""
    found, tall = stretch(mask, frame), (frame[2] - frame[0]) / (frame[3] - frame[1])
    overlap = np.minimum(found, templates.masks).sum((1, 2)) / np.maximum(found, templates.masks).sum((1, 2))
    return overlap * np.minimum(templates.proportions / tall, tall / templates.proportions)


def _least(mask: PixelMask) -> float:
    """Overlap over union of a mask with itself when its outline is ``SLACK`` pixels off everywhere."""
    area, edge = int(mask.sum()), int((mask & ~shrink(mask)).sum())
    return 1 - SLACK * edge / area if area else 1.0


def _size(mask: PixelMask) -> str:
    """Name of the size that is nearest to the mask's."""
    left, top, right, bottom = box(mask)
    half = max(right - left, bottom - top) / 2
    return min(RADIUS, key=lambda size: abs(RADIUS[size] - half))


def template(shape: str, size: str) -> PixelMask:
    """Mask of a figure in the middle of a picture, ``(SIDE, SIDE)``."""
    side = SIDE * OVERSAMPLING
    fine = silhouette(shape, (side / 2, side / 2), RADIUS[size] * OVERSAMPLING, side)
    return np.asarray(fine.reduce(OVERSAMPLING)) >= 128
