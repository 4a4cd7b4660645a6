"""Drawing of a scene as a 64 x 64 picture: outlines in a unit square, filled four times too large, then shrunk."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from lorica.demo.words import BACKGROUNDS, COLORS, RGB

SIDE = 64  # pixels
OVERSAMPLING = 4
RADIUS = {"large": 21.0, "small": 12.5}  # half the side of a figure's square, in pixels
OUTLINE = 2.2  # pixels
STRIPE_PERIOD = 9.0  # pixels

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scene:
    """Content of a picture: ``len(centers)`` equal figures on a flat background.

    ``centers`` are in pixels from the upper left corner.
    """

    shape: str
    color: str
    background: str
    size: str
    centers: tuple[Point, ...]
    pattern: str = "plain"


def draw(scene: Scene) -> Image.Image:
    """Picture of a scene, RGB, 64 x 64. The same scene gives the same pixels."""
    side = SIDE * OVERSAMPLING
    picture = Image.new("RGB", (side, side), BACKGROUNDS[scene.background])
    radius = RADIUS[scene.size] * OVERSAMPLING
    for x, y in scene.centers:
        mask = silhouette(scene.shape, (x * OVERSAMPLING, y * OVERSAMPLING), radius, side)
        picture.paste(_paint(scene, side), mask=mask)
        if scene.pattern == "outlined":
            picture.paste(_outline_color(scene.color), mask=_border(mask))
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def silhouette(shape: str, center: Point, radius: float, side: int) -> Image.Image:
    """Mask of one figure, mode L, ``side`` x ``side``; ``radius`` is half its square."""
    mask = Image.new("L", (side, side), 0)
    pen = _Pen(ImageDraw.Draw(mask), center, radius)
    FIGURES[shape](pen)
    return mask


@dataclass(frozen=True, slots=True)
class _Pen:
    """Drawing on a mask in the figure's own coordinates: -1 to 1 in both directions, y downwards."""

    ink: ImageDraw.ImageDraw
    center: Point
    radius: float

    def polygon(self, *points: Point, fill: int = 255) -> None:
        self.ink.polygon([self._at(point) for point in points], fill=fill)

    def ellipse(self, x: float, y: float, rx: float, ry: float | None = None, fill: int = 255) -> None:
        ry = rx if ry is None else ry
        self.ink.ellipse([self._at((x - rx, y - ry)), self._at((x + rx, y + ry))], fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float) -> None:
        self.ink.rectangle([self._at((left, top)), self._at((right, bottom))], fill=255)

    def _at(self, point: Point) -> Point:
        return (self.center[0] + point[0] * self.radius, self.center[1] + point[1] * self.radius)


def _heart(pen: _Pen) -> None:
    curve = [index / 80 * math.tau for index in range(80)]
    pen.polygon(*((math.sin(t) ** 3, -_heart_height(t) / 15.5 - 0.12) for t in curve))


def _heart_height(t: float) -> float:
    return 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)


def _star(pen: _Pen) -> None:
    spokes = [(index * math.pi / 5, 1.0 if index % 2 == 0 else 0.42) for index in range(10)]
    pen.polygon(*((math.sin(angle) * length, -math.cos(angle) * length + 0.06) for angle, length in spokes))


def _circle(pen: _Pen) -> None:
    pen.ellipse(0, 0, 0.92)


def _square(pen: _Pen) -> None:
    pen.box(-0.82, -0.82, 0.82, 0.82)


def _triangle(pen: _Pen) -> None:
    pen.polygon((0, -0.92), (0.98, 0.82), (-0.98, 0.82))


def _diamond(pen: _Pen) -> None:
    pen.polygon((0, -1), (0.72, 0), (0, 1), (-0.72, 0))


def _cross(pen: _Pen) -> None:
    pen.box(-0.3, -0.92, 0.3, 0.92)
    pen.box(-0.92, -0.3, 0.92, 0.3)


def _ring(pen: _Pen) -> None:
    pen.ellipse(0, 0, 0.95)
    pen.ellipse(0, 0, 0.5, fill=0)


def _moon(pen: _Pen) -> None:
    pen.ellipse(-0.05, 0, 0.95)
    pen.ellipse(0.42, -0.12, 0.78, fill=0)


def _tree(pen: _Pen) -> None:
    pen.polygon((0, -1), (0.6, -0.2), (-0.6, -0.2))
    pen.polygon((0, -0.55), (0.82, 0.55), (-0.82, 0.55))
    pen.box(-0.17, 0.55, 0.17, 1)


def _fish(pen: _Pen) -> None:
    pen.ellipse(-0.25, 0, 0.75, 0.52)
    pen.polygon((0.3, 0), (1, -0.58), (1, 0.58))
    pen.ellipse(-0.62, -0.12, 0.11, fill=0)


def _flower(pen: _Pen) -> None:
    for index in range(6):
        angle = index * math.tau / 6
        pen.ellipse(0.6 * math.sin(angle), -0.6 * math.cos(angle), 0.38)
    pen.ellipse(0, 0, 0.45)
    pen.ellipse(0, 0, 0.25, fill=0)


FIGURES: dict[str, Callable[[_Pen], None]] = {
    "heart": _heart,
    "star": _star,
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
    "tree": _tree,
    "fish": _fish,
    "flower": _flower,
}


def _paint(scene: Scene, side: int) -> Image.Image:
    """Full picture of the figure's colour, with stripes where the scene has them."""
    paint = Image.new("RGB", (side, side), COLORS[scene.color])
    if scene.pattern == "striped":
        ink = ImageDraw.Draw(paint)
        period = STRIPE_PERIOD * OVERSAMPLING
        for index in range(2 * math.ceil(side / period)):
            x = index * period
            ink.line([(x, 0), (x - side, side)], fill=_stripe_color(scene.color), width=round(period * 0.3))
    return paint


def _stripe_color(color: str) -> RGB:
    """Colour halfway to white, or to gray where the colour is already light."""
    toward = 110 if color == "white" else 255
    red, green, blue = ((channel + toward) // 2 for channel in COLORS[color])
    return red, green, blue


def _outline_color(color: str) -> RGB:
    return (235, 235, 235) if color in {"black", "brown"} else (20, 20, 20)


def _border(mask: Image.Image) -> Image.Image:
    """Inner border of a mask, ``OUTLINE`` pixels wide."""
    inner = mask
    for _ in range(round(OUTLINE * OVERSAMPLING / 2)):  # a 5 x 5 minimum takes 2 pixels off each side
        inner = inner.filter(ImageFilter.MinFilter(5))
    return ImageChops.subtract(mask, inner)
