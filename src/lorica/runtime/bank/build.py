"""Build what a bank is to hold: rows that stand in it already are copied from it, the others from the adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lorica.runtime.bank.content import Content, Record, Rows
from lorica.runtime.bank.share import Direct, Share

HALVES = {torch.float16, torch.bfloat16}

Pieces = dict[str, tuple[Tensor, Tensor, float]]  # down (r, in, *kernel), up (out, r) and scaling, by adapter


def rebuilt(
    content: Content,
    wanted: Mapping[str, Record],
    shares: Mapping[str, Share],
) -> Content:
    """Content that holds exactly these adapters, in memory of its own, with just as many rows as they need.

    Args:
        content: what it holds now.
        wanted: a record of each adapter, in the order of loading.
        shares: what those bring that are not held already.
    """
    pieces: Pieces = {}
    directs: list[tuple[str, Direct]] = []
    known = dict(content.directs)
    for name in wanted:
        share = shares.get(name)
        if share is None:
            if name in content.rows:
                rows = content.rows[name]
                cut = slice(rows.start, rows.stop)
                pieces[name] = content.down[cut], content.up[:, cut], rows.scaling
            direct = known.get(name)
        else:
            if share.factors is not None:
                pieces[name] = share.factors
            direct = share.direct
        if direct is not None:
            directs.append((name, direct))
    down, up, placed = _stacked(content, pieces)
    return replace(content, down=down, up=up, rows=placed, directs=tuple(directs), held=dict(wanted), room=0)


def _stacked(content: Content, pieces: Pieces) -> tuple[Tensor, Tensor, dict[str, Rows]]:
    count = sum(len(down) for down, _, _ in pieces.values())
    shape = content.down.shape[1:]
    down = content.down.new_empty(count, *shape)
    up = content.up.new_empty(content.up.shape[0], count)
    placed: dict[str, Rows] = {}
    start = 0
    for name, (own_down, own_up, scaling) in pieces.items():
        stop = start + len(own_down)
        copy_numbers(down[start:stop], own_down.reshape(-1, *shape))
        copy_numbers(up[:, start:stop], own_up)
        placed[name] = Rows(start, stop, scaling)
        start = stop
    return down, up, placed


def write_reserved(content: Content, built: Content) -> Content:
    """Copy what was built into reserved rows, whose address compiled graphs know; the rest is zero, as they read all."""
    count = len(built.down)
    content.down[:count].copy_(built.down)
    content.up[:, :count].copy_(built.up)
    content.down[count:].zero_()
    content.up[:, count:].zero_()
    return replace(built, down=content.down, up=content.up, room=content.room)


def with_room(layer: nn.Module, content: Content, room: int) -> Content:
    """The same in memory with so many rows reserved."""
    count = len(content.down)
    grown = Content.empty(layer, room)
    grown.down[:count].copy_(content.down)
    grown.up[:, :count].copy_(content.up)
    return replace(content, down=grown.down, up=grown.up, room=room)


def copy_numbers(into: Tensor, source: Tensor) -> None:
    """Copy with a cast; between the two half precisions by way of float32, which torch does in a third of the time."""
    between = into.dtype is not source.dtype and {into.dtype, source.dtype} <= HALVES
    into.copy_(source.float() if between else source)
