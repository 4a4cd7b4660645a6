"""Leave out pictures that cannot be read, where a run is told to go on without them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorica.data.cache import Cache, digest_of_bytes, key_of
from lorica.data.images import load_picture
from lorica.data.items import Item
from lorica.errors import DataError
from lorica.training.progress import Reporter

MOST_NAMED = 5


def leave_out_bad(items: Sequence[Item], cache: Cache, reporter: Reporter) -> list[Item]:
    """Return the pictures that can be read, and say which are left out and why.

    Every picture is decoded once; that one could be read is kept in the cache by its content.

    Raises:
        DataError: if none can be read.
    """
    found = [(item, _fault(item, cache)) for item in items]
    bad = [(item, fault) for item, fault in found if fault is not None]
    if not bad:
        return list(items)
    if len(bad) == len(items):
        raise DataError(f"none of {len(items)} pictures can be read; the first: {bad[0][1]}")
    named = ", ".join(str(item.path) for item, _ in bad[:MOST_NAMED]) + (", ..." if len(bad) > MOST_NAMED else "")
    reporter.say(f"{len(bad)} of {len(items)} pictures cannot be read and are left out: {named}")
    return [item for item, fault in found if fault is None]


def _fault(item: Item, cache: Cache) -> str | None:
    """Return what is wrong with a picture, or None."""
    try:
        content = item.read()
        key = key_of("readable", digest_of_bytes(content))
        if cache.look_up(key) is None:
            load_picture(content, item.path)
            cache.keep(key, {"readable": torch.ones(1, dtype=torch.uint8)})
    except DataError as error:
        return str(error)
    return None
