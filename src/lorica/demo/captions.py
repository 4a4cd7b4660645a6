"""Random scenes and their captions: every caption describes its scene in a small compositional language."""

from __future__ import annotations

import random

from lorica.demo.drawing import RADIUS, SIDE, Point, Scene
from lorica.demo.words import BACKGROUNDS, COLORS, COUNTS, PATTERNS, SHAPES, SIZES, UNSEEN, visible

OPENINGS = ("a picture of", "a drawing of", "a photo of")
PLURALS = {"cross": "crosses", "fish": "fish"}


def caption(scene: Scene) -> str:
    """Full caption, like ``a large striped red heart on a white background``."""
    return f"{_figure(scene)} on {_article(scene.background)} background"


def loose_caption(scene: Scene, rng: random.Random) -> str:
    """Caption as people write them: at times shorter, with an opening, or with a word of no meaning."""
    words = caption(scene)
    if rng.random() < 0.05:
        words = _figure(scene)
    elif rng.random() < 0.05 and len(scene.centers) == 1 and scene.pattern == "plain":
        words = f"{_article(scene.color)} {scene.shape} on {_article(scene.background)} background"
    if rng.random() < 0.1:
        words = f"{rng.choice(OPENINGS)} {words}"
    if rng.random() < 0.06:
        words = _with_a_strange_word(words, rng)
    return words


def random_scene(rng: random.Random, *, unseen: bool = False, single: bool = False) -> Scene:
    """Random scene: from the pairs of shape and colour that training sees, or from those it never sees.

    With ``single``, one figure without stripes or outline.
    """
    shape, color = _pair(rng, unseen)
    background = rng.choice([name for name in BACKGROUNDS if visible(color, name)])
    kind = 0.0 if single else rng.random()
    if kind > 0.9:
        return Scene(shape, color, background, "small", _several_centers(rng.choice((2, 3)), rng))
    size = rng.choice(SIZES)
    pattern = "plain" if kind < 0.74 or size == "small" else rng.choice(PATTERNS[1:])
    return Scene(shape, color, background, size, (_center(size, rng),), pattern)


def vocabulary() -> list[str]:
    """Every word that a caption can hold, in a fixed order."""
    words = [*SHAPES, *(_plural(shape) for shape in SHAPES), *COLORS, *BACKGROUNDS, *SIZES, *PATTERNS, *COUNTS]
    words += ["a", "an", "on", "background", "and", "with", "the", *" ".join(OPENINGS).split()]
    return list(dict.fromkeys(words))


def _figure(scene: Scene) -> str:
    number = {count: word for word, count in COUNTS.items()}.get(len(scene.centers))
    pattern = "" if scene.pattern == "plain" else f"{scene.pattern} "
    if number:
        return f"{number} {scene.size} {pattern}{scene.color} {_plural(scene.shape)}"
    return f"a {scene.size} {pattern}{scene.color} {scene.shape}"


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _plural(shape: str) -> str:
    return PLURALS.get(shape, f"{shape}s")


def _pair(rng: random.Random, unseen: bool) -> tuple[str, str]:
    while True:
        pair = (rng.choice(SHAPES), rng.choice(list(COLORS)))
        if (pair in UNSEEN) == unseen:
            return pair


def _center(size: str, rng: random.Random) -> Point:
    margin = RADIUS[size] + 1
    return (rng.uniform(margin, SIDE - margin), rng.uniform(margin, SIDE - margin))


def _several_centers(count: int, rng: random.Random) -> tuple[Point, ...]:
    """Centres of small figures that do not touch."""
    apart = 2 * RADIUS["small"] + 2
    while True:
        centers = tuple(_center("small", rng) for _ in range(count))
        pairs = [(a, b) for index, a in enumerate(centers) for b in centers[:index]]
        if all(max(abs(a[0] - b[0]), abs(a[1] - b[1])) > apart for a, b in pairs):
            return centers


def _with_a_strange_word(words: str, rng: random.Random) -> str:
    """Caption with a word of no meaning inserted, so that the model learns to ignore words it does not know."""
    strange = "".join(rng.choice("bcdfghklmnprstvz") + rng.choice("aeiou") for _ in range(rng.choice((2, 3))))
    parts = words.split()
    parts.insert(rng.randrange(1, len(parts)), strange)
    return " ".join(parts)
