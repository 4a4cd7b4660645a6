"""Contact sheets: several pictures on one, with labels at the rows and columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

PAPER = (255, 255, 255)
INK = (40, 40, 46)
GAP = 8  # pixels between pictures
LEAST_SIDE = 128  # smaller pictures are enlarged to it, or their labels would be larger than they are
LINE = 18  # pixels from line to line of a label
LETTER = 14  # pixels
LETTER_WIDTH = 7.3  # pixels, on average
LABEL_WIDTH = 190  # pixels, for the labels of rows


def grid(
    rows: Sequence[Sequence[Image.Image]], *, row_labels: Sequence[str] = (), column_labels: Sequence[str] = ()
) -> Image.Image:
    """One sheet: a row of pictures for each of ``rows``, labels at the left and above where given."""
    enlarged = [[_enlarge(picture) for picture in row] for row in rows]
    width = max(picture.width for row in enlarged for picture in row)
    height = max(picture.height for row in enlarged for picture in row)
    left, wrapped = (LABEL_WIDTH if row_labels else GAP), [_wrap(label, width) for label in column_labels]
    top = GAP + LINE * max((text.count("\n") + 1 for text in wrapped), default=0) + (4 if wrapped else 0)
    columns = max(len(row) for row in enlarged)
    sheet = Image.new("RGB", (left + columns * (width + GAP), top + len(rows) * (height + GAP)), PAPER)
    ink = ImageDraw.Draw(sheet)
    for column, text in enumerate(wrapped):
        _write(ink, text, (left + column * (width + GAP) + width / 2, GAP + top / 2 - GAP / 2), "mm")
    for index, row in enumerate(enlarged):
        y = top + index * (height + GAP)
        if row_labels:
            _write(ink, _wrap(row_labels[index], LABEL_WIDTH - 2 * GAP), (GAP, y + height / 2), "lm")
        for column, picture in enumerate(row):
            sheet.paste(picture, (left + column * (width + GAP), y))
    return sheet


def contact_sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """All pictures on one sheet that is about as wide as high, without labels."""
    columns = math.ceil(math.sqrt(len(pictures)))
    return grid([pictures[start : start + columns] for start in range(0, len(pictures), columns)])


def _enlarge(picture: Image.Image) -> Image.Image:
    times = math.ceil(LEAST_SIDE / max(picture.size))
    return picture.convert("RGB").resize((picture.width * times, picture.height * times), Image.Resampling.BICUBIC)


def _wrap(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, max(6, int(width / LETTER_WIDTH)))) or " "


def _write(ink: ImageDraw.ImageDraw, text: str, place: tuple[float, float], anchor: str) -> None:
    ink.multiline_text(place, text, fill=INK, font=ImageFont.load_default(LETTER), anchor=anchor, align="center")
