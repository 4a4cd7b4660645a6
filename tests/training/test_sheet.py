"""Sheets: every picture in its place, labels beside them."""

import numpy as np
import pytest
from PIL import Image

from lorica.training.output.sheet import GAP, LABEL_WIDTH, LEAST_SIDE, PAPER, contact_sheet, grid


def plain(color: tuple[int, int, int], size: tuple[int, int] = (150, 140)) -> Image.Image:
    return Image.new("RGB", size, color)


def test_pictures_stand_in_rows_and_columns() -> None:
    sheet = grid([[plain((255, 0, 0)), plain((0, 255, 0))], [plain((0, 0, 255)), plain((9, 9, 9))]])
    assert sheet.size == (GAP + 2 * (150 + GAP), GAP + 2 * (140 + GAP))
    assert sheet.getpixel((GAP + 75, GAP + 70)) == (255, 0, 0)
    assert sheet.getpixel((2 * GAP + 225, GAP + 70)) == (0, 255, 0)
    assert sheet.getpixel((GAP + 75, 2 * GAP + 210)) == (0, 0, 255)


def test_labels_make_room_and_are_written() -> None:
    pictures = [[plain((0, 0, 255)), plain((0, 0, 255))]]
    bare, labelled = grid(pictures), grid(pictures, row_labels=["a large red heart"], column_labels=["base", "full"])
    assert labelled.width == bare.width - GAP + LABEL_WIDTH
    assert labelled.height > bare.height
    corner = np.asarray(labelled)[:, :LABEL_WIDTH]
    assert (corner != PAPER).any()
    assert (np.asarray(labelled)[: labelled.height - 150, LABEL_WIDTH:] != PAPER).any()


def test_small_pictures_are_enlarged() -> None:
    assert grid([[plain((1, 2, 3), (64, 64))]]).width == LEAST_SIDE + 2 * GAP


@pytest.mark.parametrize(("count", "columns", "rows"), [(2, 2, 1), (4, 2, 2), (5, 3, 2), (9, 3, 3)])
def test_a_contact_sheet_is_about_square(count: int, columns: int, rows: int) -> None:
    sheet = contact_sheet([plain((5, 5, 5))] * count)
    assert sheet.size == (GAP + columns * (150 + GAP), GAP + rows * (140 + GAP))
