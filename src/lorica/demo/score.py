"""Reader of 64 x 64 pictures: shape, colour, background and number of figures. Deterministic, without a model."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lorica.demo.drawing import SIDE, Scene, draw
from lorica.demo.masks import PixelMask, close, components, shrink, without_specks
from lorica.demo.templates import agree
from lorica.demo.words import BACKGROUNDS, COLORS, RGB, contrast

LEAST_FIGURE = 40  # pixels
LEAST_SPECK = 12  # pixels; less is noise
LEAST_DISTANCE = 28.0  # in RGB, between a figure's pixel and the background
LEAST_PLAIN = 0.25  # share of a striped figure that shows its own colour
FARTHEST_COLOR = 90.0  # in RGB, between what is seen and the colour it is called by

Pixels = NDArray[np.float32]  # (h, w, 3), 0 to 255


@dataclass(frozen=True, slots=True)
class Reading:
    """Content of a picture, as it was read.

    ``shape`` is None where no known shape is recognised, ``color`` and ``background`` where no known colour is
    near; ``match`` is the agreement of the shape, 0 to 1.
    """

    shape: str | None
    color: str | None
    background: str | None
    count: int
    match: float

    def shows(self, scene: Scene) -> bool:
        """Whether shape, colour and background are those of the scene."""
        return (self.shape, self.color, self.background) == (scene.shape, scene.color, scene.background)


def read_picture(image: Image.Image) -> Reading:
    """Reading of a picture; pictures of another size are resized first."""
    pixels = to_pixels(image)
    background = nearest(background_of(pixels), BACKGROUNDS)
    distance = _distance(pixels)
    figure = _figure(distance)
    if figure.sum() < LEAST_FIGURE:
        return Reading(None, None, background, 0, 0.0)
    shape, count, match = _shape(distance, figure)
    return Reading(shape, _color(pixels, figure), background, count, match)


def to_pixels(image: Image.Image) -> Pixels:
    """Pixels of an image, ``(SIDE, SIDE, 3)``, 0 to 255."""
    small = image.convert("RGB")
    if small.size != (SIDE, SIDE):
        small = small.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


def background_of(pixels: Pixels) -> NDArray[np.float32]:
    """Colour of the picture's border, ``(3,)``: the median of a frame two pixels wide."""
    frame = np.ones(pixels.shape[:2], dtype=bool)
    frame[2:-2, 2:-2] = False
    return np.median(pixels[frame], axis=0).astype(np.float32)


def nearest(color: NDArray[np.float32], palette: dict[str, RGB]) -> str | None:
    """Name of the nearest colour of the palette, or None if even that is far."""
    away = {name: math.dist(color.tolist(), rgb) for name, rgb in palette.items()}
    name = min(away, key=lambda key: away[key])
    return name if away[name] <= FARTHEST_COLOR else None


def figure_of(pixels: Pixels) -> PixelMask:
    """Mask of the figures, without the background."""
    return _figure(_distance(pixels))


def _distance(pixels: Pixels) -> NDArray[np.float32]:
    """Distance of each pixel from the background in RGB, ``(SIDE, SIDE)``."""
    return np.linalg.norm(pixels - background_of(pixels), axis=2).astype(np.float32)


def _figure(distance: NDArray[np.float32]) -> PixelMask:
    """Mask of the pixels that are nearer to the figure's colour than to the background's."""
    clear = distance[distance > max(LEAST_DISTANCE, 0.3 * float(np.percentile(distance, 98)))]
    if clear.size < LEAST_FIGURE:
        return np.zeros(distance.shape, dtype=bool)
    return without_specks(distance > max(LEAST_DISTANCE, float(np.median(clear)) / 2), LEAST_SPECK)


def _shape(distance: NDArray[np.float32], figure: PixelMask) -> tuple[str | None, int, float]:
    """Shape that agrees best, number of figures, and agreement."""
    parts = [part for part in components(figure) if part.sum() >= LEAST_FIGURE]
    faint = without_specks(distance > LEAST_DISTANCE, LEAST_SPECK)
    views = (figure, "whole"), (faint, "whole"), (close(figure), "closed"), (figure, "inner")
    one = max((agree(mask, aspect) for mask, aspect in views), key=lambda found: found.match)
    several = [agree(part, "whole") for part in parts]
    if len(parts) > 1 and min(found.match for found in several) > one.match:
        worst = min(several, key=lambda found: found.match)
        alike = len({found.shape for found in several}) == 1
        return (worst.shape if alike else None), len(parts), worst.match
    return one.shape, 1, one.match


def _color(pixels: Pixels, figure: PixelMask) -> str | None:
    """Colour of most pixels of the figure's inside; stripes count for the colour that they go with."""
    inside = next(core for core in (shrink(figure, 3), shrink(figure), figure) if core.sum() >= LEAST_FIGURE)
    palette = np.array([*COLORS.values(), *_stripes().values()], dtype=np.float32)
    away = np.linalg.norm(pixels[inside][:, None] - palette, axis=2)  # (pixels, colours and their stripes)
    votes = np.bincount(away.argmin(1)[away.min(1) <= FARTHEST_COLOR], minlength=len(palette))
    plain, stripes = votes.reshape(2, -1)
    total = plain + np.where(plain >= LEAST_PLAIN * inside.sum(), stripes, 0)
    return list(COLORS)[int(total.argmax())] if total.any() else None


@cache
def _stripes() -> dict[str, RGB]:
    """Colour of the stripes that go with each colour, looked up in drawn pictures."""
    return {color: _second_color(color) for color in COLORS}


def _second_color(color: str) -> RGB:
    background = max(BACKGROUNDS, key=lambda name: contrast(color, name))
    picture = draw(Scene("square", color, background, "large", ((SIDE / 2, SIDE / 2),), "striped"))
    known = {COLORS[color], BACKGROUNDS[background]}
    shades: Counter[RGB] = Counter(tuple(shade) for shade in np.asarray(picture).reshape(-1, 3).tolist())
    return next(shade for shade, _ in shades.most_common() if shade not in known)
