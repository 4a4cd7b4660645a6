"""Masks of figures in plain numpy: dilate, erode, close, split into components, stretch to a common grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PixelMask = NDArray[np.bool_]  # (h, w)
GridMask = NDArray[np.float32]  # (GRID, GRID), 0 to 1
Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are the first pixels outside

GRID = 32


def grow(mask: PixelMask, pixels: int = 1) -> PixelMask:
    """Dilated mask: every pixel within ``pixels`` of it is added, diagonals included."""
    for _ in range(pixels):
        wide = np.pad(mask, 1)
        mask = wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1]
        wide = np.pad(mask, 1)
        mask = wide[1:-1, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    return mask


def shrink(mask: PixelMask, pixels: int = 1) -> PixelMask:
    """Eroded mask: every pixel within ``pixels`` of its outside is removed."""
    return ~grow(~mask, pixels)


def close(mask: PixelMask, pixels: int = 2) -> PixelMask:
    """Closed mask: gaps narrower than ``2 * pixels + 1`` are filled."""
    roomy = np.pad(mask, pixels)
    return shrink(grow(roomy, pixels), pixels)[pixels:-pixels, pixels:-pixels]


def components(mask: PixelMask) -> list[PixelMask]:
    """Connected components of a mask, diagonals included, the largest first."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        spread = np.where(mask, _largest_near(labels), 0)
        if np.array_equal(spread, labels):
            break
        labels = spread
    parts = [labels == label for label in np.unique(labels) if label]
    return sorted(parts, key=lambda part: -int(part.sum()))


def without_specks(mask: PixelMask, least: int) -> PixelMask:
    """Mask without the connected components of fewer than ``least`` pixels."""
    kept = [part for part in components(mask) if part.sum() >= least]
    return np.any(kept, axis=0) if kept else np.zeros_like(mask)


def fill(mask: PixelMask) -> PixelMask:
    """Mask with its holes filled: only pixels that are connected to the upper left corner are outside."""
    outside = components(np.pad(~mask, 1, constant_values=True))
    return ~next(part for part in outside if part[0, 0])[1:-1, 1:-1]


def box(mask: PixelMask) -> Box:
    """Bounding box of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def stretch(mask: PixelMask, frame: Box | None = None) -> GridMask:
    """Mask cut out at ``frame`` (by default its own box) and stretched to ``(GRID, GRID)``."""
    left, top, right, bottom = frame or box(mask)
    cut = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255)
    gray = np.asarray(cut.resize((GRID, GRID), Image.Resampling.BILINEAR), dtype=np.float32)
    return (gray / 255).astype(np.float32)


def slenderness(mask: PixelMask) -> float:
    """Width over height of a mask's box."""
    left, top, right, bottom = box(mask)
    return (right - left) / (bottom - top)


def _largest_near(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Largest label among each pixel and its eight neighbours."""
    rows = labels.copy()
    np.maximum(rows[1:], labels[:-1], out=rows[1:])
    np.maximum(rows[:-1], labels[1:], out=rows[:-1])
    near = rows.copy()
    np.maximum(near[:, 1:], rows[:, :-1], out=near[:, 1:])
    np.maximum(near[:, :-1], rows[:, 1:], out=near[:, :-1])
    return near
