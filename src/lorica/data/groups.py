"""The settings that all pictures of one data set share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorica.data.caption_edits import CaptionEdits
from lorica.data.items import Item
from lorica.data.mixture import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One data set; ``Item.group`` is its number among those of the run.

    Args:
        source: how its pictures are mixed with those of others.
        edits: how its captions are changed.
        masked: whether masks weight its loss.
    """

    source: Source
    edits: CaptionEdits
    masked: bool = False


def one_group(items: Sequence[Item], edits: CaptionEdits | None = None) -> tuple[Group, ...]:
    """Groups of a run with one data set."""
    return (Group(source=Source(name="pictures", count=len(items)), edits=edits or CaptionEdits()),)
