"""Operations on masks, each against a case worked out by hand."""

import numpy as np

from lorica.demo.masks import box, close, components, fill, grow, shrink, slenderness, stretch, without_specks


def mask(*rows: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows])


def test_grow_adds_the_neighbours_diagonals_included() -> None:
    assert np.array_equal(grow(mask(".....", ".....", "...#.")), mask(".....", "..###", "..###"))


def test_shrink_takes_the_rim_off() -> None:
    assert np.array_equal(shrink(mask("......", ".####.", ".####.", ".####.", "......")),
                          mask("......", "......", "..##..", "......", "......"))  # fmt: skip


def test_close_fills_a_narrow_gap_and_keeps_a_wide_one() -> None:
    rows = np.zeros((9, 30), dtype=bool)
    rows[3:6] = True
    rows[:, 6:9] = False  # 3 wide
    rows[:, 15:22] = False  # 7 wide
    closed = close(rows)
    assert closed[4, 6:9].all()
    assert not closed[4, 17:20].any()


def test_components_are_sorted_by_size_and_joined_diagonally() -> None:
    parts = components(mask("#...##", ".#..##", "......", "....##"))
    assert [int(part.sum()) for part in parts] == [4, 2, 2]


def test_specks_are_dropped() -> None:
    assert np.array_equal(without_specks(mask("#..##", "...#."), 2), mask("...##", "...#."))


def test_fill_closes_holes_but_not_bays() -> None:
    assert np.array_equal(fill(mask("####.", "#..#.", "####.", "#.#..")), mask("####.", "####.", "####.", "#.#.."))


def test_box_and_slenderness() -> None:
    found = mask(".....", ".###.", ".#...", ".....")
    assert box(found) == (1, 1, 4, 3)
    assert slenderness(found) == 3 / 2


def test_stretch_fills_the_grid() -> None:
    assert stretch(mask("....", ".##.", "....")).min() == 1
