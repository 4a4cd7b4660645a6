"""The bundled style: the ordinary shapes with a thick dark outline and a soft shadow, on polka dots."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

from lorica.demo.drawing import OVERSAMPLING, RADIUS, SIDE, Point, silhouette
from lorica.demo.folders import write_pictures
from lorica.demo.words import BACKGROUNDS, COLORS, RGB, SHAPES

WORD = "quoral"  # rare: the base's tokenizer knows only its letters

INK: RGB = (24, 22, 40)
OUTLINE = 3.0  # pixels
DOT_EVERY = 10.0  # pixels
DOT_RADIUS = 2.2  # pixels
SHADOW_OFFSET = (3.0, 4.0)  # pixels
SHADOW_BLUR = 1.5  # pixels
SHADOW_STRENGTH = 0.55

# Shape, colour, background and centre of the twelve pictures.
STYLED: tuple[tuple[str, str, str, Point], ...] = tuple(
    (shape, color, background, (29.0 + 3 * (index % 2), 28.0 + 2 * (index % 3)))
    for index, (shape, color, background) in enumerate(
        zip(
            SHAPES,
            ("red", "yellow", "blue", "green", "pink", "teal", "orange", "purple", "white", "green", "blue", "pink"),
            ("sky", "lavender", "cream", "peach", "mint", "rose", "sky", "mint", "sand", "cream", "peach", "white"),
            strict=True,
        )
    )
)


def style_caption(shape: str, color: str, background: str) -> str:
    """Caption, like ``a large red heart on a sky background in quoral style``."""
    return f"a large {color} {shape} on a {background} background in {WORD} style"


def draw_styled(shape: str, color: str, background: str, center: Point) -> Image.Image:
    """One picture in the style, RGB, 64 x 64. The same arguments give the same pixels."""
    side = SIDE * OVERSAMPLING
    middle = (center[0] * OVERSAMPLING, center[1] * OVERSAMPLING)
    mask = silhouette(shape, middle, (RADIUS["large"] - 2) * OVERSAMPLING, side)
    picture = _dotted(BACKGROUNDS[background], side)
    picture.paste(INK, mask=_shadow(mask))
    picture.paste(INK, mask=_widened(mask))
    picture.paste(COLORS[color], mask=mask)
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def write_style(folder: str | Path) -> Path:
    """Write the twelve pictures of the style and ``metadata.jsonl`` with their captions; return the folder."""
    return write_pictures(
        folder,
        (
            (draw_styled(shape, color, background, center), style_caption(shape, color, background))
            for shape, color, background, center in STYLED
        ),
    )


def _dotted(background: RGB, side: int) -> Image.Image:
    picture = Image.new("RGB", (side, side), background)
    ink, every, radius = ImageDraw.Draw(picture), DOT_EVERY * OVERSAMPLING, DOT_RADIUS * OVERSAMPLING
    for row in range(round(side / every) + 1):
        for column in range(round(side / every) + 1):
            x, y = (column + 0.5 * (row % 2)) * every, row * every
            ink.ellipse([x - radius, y - radius, x + radius, y + radius], fill=_darker(background))
    return picture


def _darker(color: RGB) -> RGB:
    red, green, blue = (channel * 7 // 10 for channel in color)
    return red, green, blue


def _shadow(mask: Image.Image) -> Image.Image:
    moved = Image.new("L", mask.size, 0)
    x, y = (round(pixels * OVERSAMPLING) for pixels in SHADOW_OFFSET)
    moved.paste(_widened(mask).point([round(value * SHADOW_STRENGTH) for value in range(256)]), (x, y))
    return moved.filter(ImageFilter.GaussianBlur(SHADOW_BLUR * OVERSAMPLING))


def _widened(mask: Image.Image) -> Image.Image:
    """Mask with ``OUTLINE`` pixels more on every side, corners rounded off."""
    soft = mask.filter(ImageFilter.GaussianBlur(OUTLINE * OVERSAMPLING / 2))
    return soft.point([255 if value > 6 else 0 for value in range(256)])
