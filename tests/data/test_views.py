"""Which views of a picture there are."""

from __future__ import annotations

from functools import partial

from lorica.data.images import View
from lorica.data.views import choose_view, views_of
from lorica.rng import generator

RANDOM = partial(generator, 3, 0)


def test_the_middle_alone_and_mirrored() -> None:
    assert views_of("digest", RANDOM, crops=1, flip=False) == (View(0.5, 0.5, flip=False),)
    assert views_of("digest", RANDOM, crops=1, flip=True) == (View(), View(flip=True))


def test_cuts_at_random_differ_by_picture_and_not_by_run() -> None:
    views = views_of("one", RANDOM, crops=4, flip=True)
    assert len(set(views)) == 8
    assert views == views_of("one", RANDOM, crops=4, flip=True)
    assert views != views_of("two", RANDOM, crops=4, flip=True)
    assert all(0 <= share < 1 for view in views for share in (view.left, view.top))


def test_every_view_is_chosen_at_times() -> None:
    chosen = [choose_view(5, generator(1, step, "view")) for step in range(200)]
    assert set(chosen) == set(range(5))
