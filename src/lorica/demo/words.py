"""Vocabulary of the bundled pictures: shapes, colours, backgrounds, and the pairs that training never sees."""

from __future__ import annotations

import math

RGB = tuple[int, int, int]

SHAPES: tuple[str, ...] = (
    "heart",
    "star",
    "circle",
    "square",
    "triangle",
    "diamond",
    "cross",
    "ring",
    "moon",
    "tree",
    "fish",
    "flower",
)

COLORS: dict[str, RGB] = {
    "red": (218, 32, 44),
    "orange": (255, 132, 0),
    "yellow": (255, 221, 32),
    "green": (38, 158, 60),
    "teal": (0, 160, 165),
    "blue": (38, 82, 222),
    "purple": (128, 48, 172),
    "pink": (255, 84, 170),
    "brown": (122, 72, 30),
    "black": (18, 18, 18),
    "white": (250, 250, 250),
    "gray": (122, 122, 122),
}

BACKGROUNDS: dict[str, RGB] = {
    "white": (255, 255, 255),
    "black": (12, 12, 16),
    "gray": (150, 150, 150),
    "cream": (255, 242, 196),
    "peach": (255, 198, 152),
    "rose": (255, 170, 200),
    "lavender": (200, 184, 250),
    "sky": (160, 214, 255),
    "mint": (168, 240, 200),
    "sand": (212, 188, 136),
    "navy": (26, 38, 104),
    "forest": (20, 76, 48),
}

SIZES: tuple[str, ...] = ("large", "small")
PATTERNS: tuple[str, ...] = ("plain", "striped", "outlined")
COUNTS: dict[str, int] = {"two": 2, "three": 3}

# A figure must stand out from its background: below this distance in RGB the pair is not drawn.
LEAST_CONTRAST = 105.0

# Shape and colour pairs that training never sees, to test whether the model composes: one colour in
# every shape, and each colour at least once (16 of 144 pairs).
UNSEEN: frozenset[tuple[str, str]] = frozenset(
    (shape, tuple(COLORS)[(5 * index + 3 + shift) % len(COLORS)])
    for index, shape in enumerate(SHAPES)
    for shift in ((0,) if index % 3 else (0, 6))
)


def contrast(color: str, background: str) -> float:
    """Distance in RGB between a figure's colour and a background, 0 to 441."""
    return math.dist(COLORS[color], BACKGROUNDS[background])


def visible(color: str, background: str) -> bool:
    """Whether a figure of this colour stands out from this background."""
    return contrast(color, background) >= LEAST_CONTRAST
