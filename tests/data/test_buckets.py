"""Every picture gets the frame nearest in aspect, none is enlarged that must not be, and SDXL is told the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lorica.data.buckets import (
    BucketPlan,
    Size,
    all_frames,
    covers,
    nearest,
    plan_buckets,
    size_conditioning,
)
from lorica.data.images import View, covering_size, fit
from lorica.errors import ConfigError, DataError

AREA, STEP, LEAST, MOST = 512 * 512, 64, 256, 1024


def plan(sizes: list[tuple[int, int]], *, no_upscale: bool = False) -> BucketPlan:
    return plan_buckets(sizes, area=AREA, step=STEP, least=LEAST, most=MOST, no_upscale=no_upscale)


def test_the_frames_of_a_small_area_written_out() -> None:
    frames = all_frames(30, 2, Size(2, 2), Size(8, 8))
    # width 2: height min(15, 8) = 8; 4: 30 // 4 = 7 -> 6; 6: 5 -> 4; 8: 3 -> 2; and the same lying
    assert frames == [(8, 2), (6, 4), (4, 6), (2, 8)]


def test_limits_of_both_axes_hold_apart() -> None:
    assert all_frames(40, 2, Size(4, 2), Size(10, 6)) == [(10, 2), (10, 4), (8, 4), (6, 6), (4, 6)]


def test_each_picture_gets_the_nearest_aspect() -> None:
    found = plan([(1000, 1000), (1600, 900), (900, 1600), (3000, 500)]).frames
    assert found == ((512, 512), (640, 384), (384, 640), (1024, 256))


def test_nearness_is_a_ratio_so_wide_and_tall_are_treated_alike() -> None:
    # 960 x 256 is 3.75, 896 x 256 is 3.5. Midway by ratio is 3.6228, by difference 3.625; 1.0000 / 3.624 is tall
    wide, tall = plan([(3624, 1000), (1000, 3624)]).frames
    assert wide == (960, 256)
    assert tall == (256, 960)


def test_of_frames_equally_near_the_largest_is_taken_then_the_widest() -> None:
    assert nearest(Size(14, 7), [Size(8, 2), Size(6, 6)]) == (6, 6)
    assert nearest(Size(14, 7), [Size(6, 6), Size(12, 3), Size(8, 2)]) == (12, 3)
    assert nearest(Size(9, 9), [Size(4, 6), Size(6, 4)]) == (6, 4)


def test_a_small_picture_gets_a_smaller_frame_if_it_must_not_be_enlarged() -> None:
    sizes = [(500, 500), (900, 255), (3000, 100), (130, 70), (513, 512)]
    assert plan(sizes).frames == ((512, 512), (896, 256), (1024, 256), (640, 384), (512, 512))
    # 500 -> 7 * 64; 255 -> 192 and the width nearest in aspect; 100 -> 64; 130 x 70 -> 128 x 64; 513 x 512 fits
    assert plan(sizes, no_upscale=True).frames == ((448, 448), (704, 192), (1024, 64), (128, 64), (512, 512))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(64, 3000), st.integers(64, 3000)), min_size=1, max_size=5))
def test_what_holds_for_all_sizes(sizes: list[tuple[int, int]]) -> None:
    free, strict = plan(sizes), plan(sizes, no_upscale=True)
    for size, frame, small in zip(sizes, free.frames, strict.frames, strict=True):
        assert covers(size, small)
        assert all(side % STEP == 0 for side in (*frame, *small))
        assert max(math.prod(frame), math.prod(small)) <= AREA
        assert all(LEAST <= side <= MOST for side in frame)
        assert small == frame or not covers(size, frame)
    assert strict.enlarged == 0


def test_the_plan_tells_what_is_enlarged_and_cut() -> None:
    made = plan([(1024, 1024), (500, 500), (1280, 768), (1000, 512)])
    assert made.frames == ((512, 512), (512, 512), (640, 384), (704, 320))
    assert made.enlarged == 1
    # the last is resized to 704 x 360 (0.704 of its size), of which 320 rows are kept
    assert made.lost == pytest.approx((0, 0, 0, 1 - 320 / 360))
    lines = made.table(batch=3).splitlines()
    assert [line.split() for line in lines[1:-1]] == [
        ["704x320", "1", "1"],
        ["640x384", "1", "1"],
        ["512x512", "2", "1"],
    ]
    assert lines[-1] == (
        "4 pictures: 1 enlarged (25.0%), 1 cut (25.0%; 2.8% of a picture on average, 11.1% at most), "
        "5 seen twice an epoch to fill batches of 3."
    )


def test_members_lie_in_the_order_of_shapes_and_repeats_stay() -> None:
    made = plan([(500, 1000), (1000, 500), (512, 512), (1000, 501)])
    assert made.members() == {(704, 320): (1, 3), (512, 512): (2,), (320, 704): (0,)}
    assert list(made.members()) == [(704, 320), (512, 512), (320, 704)]
    assert made.members([2, 0, 2])[Size(512, 512)] == (2, 2)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(203, 97), (60, 157), (31, 30)])
def test_the_crop_told_is_the_crop_made(size: tuple[int, int], *, flip: bool) -> None:
    """Columns and rows are numbered, so that the cut shows where it lies; no resizing, so that numbers stay whole."""
    frame, view = Size(29, 30), View(0.3, 0.8, flip)
    resized = Size(*covering_size(size, frame))
    numbered = np.zeros((resized.height, resized.width, 3), np.uint8)
    numbered[..., 0] = np.arange(resized.width)
    numbered[..., 1] = np.arange(resized.height)[:, None]
    cut = np.asarray(fit(Image.fromarray(numbered), frame.height, frame.width, view))
    told = size_conditioning(Size(*size), frame, view)
    assert told.original == (size[1], size[0])
    assert told.target == (30, 29)
    assert told.crop[0] == cut[0, 0, 1]
    left = cut[0, 0, 0]
    assert told.crop[1] == (resized.width - 1 - left if flip else left)


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiples of their step 64, got 250 to 1024"):
        plan_buckets([(9, 9)], area=AREA, step=64, least=250, most=1024)
    with pytest.raises(ConfigError, match="shortest side of a bucket, 512, is above the longest, 256"):
        plan_buckets([(9, 9)], area=AREA, step=64, least=512, most=256)
    with pytest.raises(ConfigError, match="no bucket of 65536 pixels has sides of at least 320"):
        plan_buckets([(9, 9)], area=256 * 256, step=64, least=320, most=1024)
    with pytest.raises(DataError, match="no picture to put into buckets"):
        plan([])


def test_a_picture_too_small_to_keep_is_named() -> None:
    with pytest.raises(DataError, match=r"picture 2 has 300x63 pixels, less than the step of 64"):
        plan([(70, 80), (300, 63)], no_upscale=True)
    with pytest.raises(DataError, match=r"tiny\.png has 9x70 pixels"):
        plan_buckets([(9, 70)], area=AREA, step=64, least=256, most=512, no_upscale=True, names=["tiny.png"])
    assert plan([(300, 63)]).enlarged == 1
