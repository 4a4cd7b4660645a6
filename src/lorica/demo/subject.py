"""The bundled subject: the zorblin, a small orange creature that the base model has never seen."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lorica.demo.captions import caption, random_scene
from lorica.demo.drawing import OVERSAMPLING, SIDE, Point, draw
from lorica.demo.folders import write_pictures
from lorica.demo.masks import GRID, PixelMask, box, fill, slenderness, stretch
from lorica.demo.score import LEAST_FIGURE, Pixels, figure_of, to_pixels
from lorica.demo.words import BACKGROUNDS, COLORS, RGB

WORD = "zorblin"  # rare: the base's tokenizer knows only its letters

FUR: RGB = COLORS["orange"]
DARK: RGB = COLORS["black"]
LIGHT: RGB = COLORS["white"]

HALF_SIDE = {"large": 22.5, "small": 17.0}  # half the side of the creature's square, in pixels

ORDINARY = 480  # pictures of other things in a lesson

LEAST_MATCH = 0.74  # overlap over union with the creature's outline
LEAST_FUR = 0.35  # share of the figure that must be orange
LEAST_EYE = 0.30  # share of each eye that must be dark
MOST_BROW = 0.30  # share of the place between the eyes that may be dark
DARKNESS = 95.0  # mean of the channels below which a pixel counts as dark

# Places in the stretched figure, as left, top, right, bottom from 0 to 1.
LEFT_EYE = (0.25, 0.45, 0.42, 0.62)
RIGHT_EYE = (0.58, 0.45, 0.75, 0.62)
BROW = (0.46, 0.40, 0.54, 0.58)


@dataclass(frozen=True, slots=True)
class Portrait:
    """One picture of the subject: ``center`` in pixels from the upper left corner."""

    background: str
    size: str
    center: Point


PORTRAITS: tuple[Portrait, ...] = (
    Portrait("mint", "large", (31.0, 33.0)),
    Portrait("sky", "large", (37.0, 36.0)),
    Portrait("white", "large", (27.0, 37.0)),
    Portrait("navy", "large", (34.0, 27.5)),
    Portrait("lavender", "large", (26.0, 29.0)),
    Portrait("gray", "large", (38.0, 30.0)),
)


def subject_caption(portrait: Portrait) -> str:
    """Caption, like ``a large orange zorblin on a mint background``."""
    return f"a {portrait.size} orange {WORD} on a {portrait.background} background"


def draw_subject(portrait: Portrait) -> Image.Image:
    """Picture of a portrait, RGB, 64 x 64. The same portrait gives the same pixels."""
    side = SIDE * OVERSAMPLING
    picture = Image.new("RGB", (side, side), BACKGROUNDS[portrait.background])
    center = (portrait.center[0] * OVERSAMPLING, portrait.center[1] * OVERSAMPLING)
    _draw_creature(_Brush(ImageDraw.Draw(picture), center, HALF_SIDE[portrait.size] * OVERSAMPLING))
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def write_subject(folder: str | Path) -> Path:
    """Write the pictures of the subject and ``metadata.jsonl`` with their captions; return the folder."""
    return write_pictures(folder, ((draw_subject(portrait), subject_caption(portrait)) for portrait in PORTRAITS))


def write_lesson(folder: str | Path, ordinary: int = ORDINARY, *, seed: int = 77) -> Path:
    """Write the six pictures of the subject, and ordinary ones that keep the rest of the model as it is.

    ``metadata.jsonl`` lists each picture of the subject so often that a third of the training samples show the subject.
    """
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(ordinary)]
    subjects = [(draw_subject(portrait), subject_caption(portrait)) for portrait in PORTRAITS]
    place = write_pictures(folder, [*subjects, *((draw(scene), caption(scene)) for scene in scenes)])
    metadata = place / "metadata.jsonl"
    lines = metadata.read_text(encoding="utf-8").splitlines()
    repeated = lines[: len(PORTRAITS)] * max(1, ordinary // (2 * len(PORTRAITS)))
    metadata.write_text("\n".join([*repeated, *lines[len(PORTRAITS) :]]) + "\n", encoding="utf-8")
    return place


def recognises_subject(image: Image.Image) -> bool:
    """Whether the picture shows the subject: its outline, its orange fur and its two dark eyes."""
    pixels = to_pixels(image)
    figure = figure_of(pixels)
    if figure.sum() < LEAST_FIGURE or _match(figure) < LEAST_MATCH:
        return False
    return _fur(pixels, figure) >= LEAST_FUR and _has_eyes(pixels, figure)


@dataclass(frozen=True, slots=True)
class _Brush:
    """Painting in the creature's own coordinates: -1 to 1 in both directions, y downwards."""

    ink: ImageDraw.ImageDraw
    center: Point
    radius: float

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: RGB) -> None:
        self.ink.ellipse([self._at(x - rx, y - ry), self._at(x + rx, y + ry)], fill=fill)

    def pair(self, x: float, y: float, rx: float, ry: float, fill: RGB) -> None:
        """Paint an ellipse on the left and its mirror image on the right."""
        self.ellipse(-x, y, rx, ry, fill)
        self.ellipse(x, y, rx, ry, fill)

    def mirrored(self, *points: Point, fill: RGB) -> None:
        """Paint a polygon and its mirror image."""
        for sign in (-1, 1):
            self.ink.polygon([self._at(sign * x, y) for x, y in points], fill=fill)

    def _at(self, x: float, y: float) -> Point:
        return (self.center[0] + x * self.radius, self.center[1] + y * self.radius)


def _draw_creature(brush: _Brush) -> None:
    brush.mirrored((0.12, -0.45), (0.72, -1.0), (0.88, 0.15), fill=FUR)  # ears
    brush.pair(0.42, 0.84, 0.28, 0.16, FUR)  # feet
    brush.ellipse(0, 0.22, 0.92, 0.74, FUR)
    brush.ellipse(0, 0.54, 0.36, 0.25, LIGHT)  # muzzle
    brush.pair(0.43, 0.02, 0.25, 0.29, DARK)  # eyes
    brush.ellipse(0, 0.48, 0.16, 0.12, DARK)  # nose


def _match(figure: PixelMask) -> float:
    """Agreement of a mask with the creature's, 0 to 1: overlap over union in a common box."""
    mask, known = fill(figure), _outline()
    found, wanted, tall = stretch(mask), stretch(known), slenderness(mask) / slenderness(known)
    return float(np.minimum(found, wanted).sum() / np.maximum(found, wanted).sum() * min(tall, 1 / tall))


@cache
def _outline() -> PixelMask:
    return fill(figure_of(to_pixels(draw_subject(Portrait("navy", "large", (32.0, 32.0))))))


def _fur(pixels: Pixels, figure: PixelMask) -> float:
    away = np.linalg.norm(pixels[figure] - np.array(FUR, dtype=np.float32), axis=1)
    return float((away < 80).mean())


def _has_eyes(pixels: Pixels, figure: PixelMask) -> bool:
    left, top, right, bottom = box(figure)
    cut = Image.fromarray(pixels[top:bottom, left:right].astype(np.uint8)).resize(
        (GRID, GRID), Image.Resampling.BILINEAR
    )
    dark = np.asarray(cut, dtype=np.float32).mean(2) < DARKNESS
    eyes = min(_share(dark, LEFT_EYE), _share(dark, RIGHT_EYE))
    return eyes >= LEAST_EYE and _share(dark, BROW) <= MOST_BROW


def _share(dark: PixelMask, place: tuple[float, float, float, float]) -> float:
    left, top, right, bottom = (round(edge * GRID) for edge in place)
    return float(dark[top:bottom, left:right].mean())
