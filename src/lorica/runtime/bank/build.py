"""Build what a bank is to hold: rows that stand in it already are copied from it, the others from the adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lorica.runtime.bank.content import Content, Record, Rows
from lorica.runtime.bank.share import Direct, Share, home_of
from lorica.runtime.model.supported_layers import weight_shape

HALVES = {torch.float16, torch.bfloat16}

Factors = tuple[Tensor, Tensor, float]  # down (r, in, *kernel), up (out, r) and scaling


@dataclass(frozen=True, slots=True)
class ReservedEdit:
    """What is to be written into the reserved rows of a bank, whose address compiled graphs know.

    Args:
        content: what the bank holds then.
        factors: what is written, by adapter; rows that stay where they are are left out.
        used: the rows that were used before; all, if writing them broke off.
    """

    content: Content
    factors: Mapping[str, Factors]
    used: int

    def write(self) -> Content:
        """Write the rows. Those that are no longer used become zero, as a graph reads all."""
        content = self.content
        for name, (down, up, _) in self.factors.items():
            _write_rows(content.down, content.up, content.rows[name], down, up)
        count = _used(content)
        content.down[count : self.used].zero_()
        content.up[:, count : self.used].zero_()
        return content


def built(
    layer: nn.Module, content: Content | None, wanted: Mapping[str, Record], shares: Mapping[str, Share], room: int
) -> Content | ReservedEdit:
    """What a bank holds when it holds exactly these adapters: in memory of its own, or in that which was reserved.

    Args:
        layer: what the bank stands on.
        content: what it holds now; None if there is no bank.
        wanted: a record of each adapter, in the order of loading.
        shares: what those bring that are not held already.
        room: rows to reserve; 0 for just as many as are needed.
    """
    factors, directs = _collected(content, wanted, shares)
    rows = _placed(factors)
    count = max((one.stop for one in rows.values()), default=0)
    if content is not None and room and content.room >= max(room, count):
        written: dict[str, Factors] = {}
        for name, (down, up, scaling) in factors.items():
            if name in shares:
                written[name] = down, up, scaling
            elif rows[name] != content.rows[name]:  # its rows move: what stands there now may be written over first
                written[name] = down.clone(), up.clone(), scaling
        edited = replace(content, rows=rows, directs=directs, held=dict(wanted))
        return ReservedEdit(edited, written, _used(content) if content.held else content.room)
    (device, dtype), (out, *rest) = home_of(layer), weight_shape(layer)
    if content is not None:
        device, dtype = content.down.device, content.down.dtype
    if len(factors) == 1 and not room:  # as most banks hold
        [(own_down, own_up, _)] = factors.values()
        down = copied(own_down, dtype, device).view(-1, *rest)
        return Content(down, copied(own_up, dtype, device), rows, directs, dict(wanted))
    room = max(room, count) if room else 0
    make = torch.zeros if room else torch.empty
    down = make(room or count, *rest, dtype=dtype, device=device)
    up = make(out, room or count, dtype=dtype, device=device)
    for name, (own_down, own_up, _) in factors.items():
        _write_rows(down, up, rows[name], own_down, own_up)
    return Content(down, up, rows, directs, dict(wanted), room)


def _collected(
    content: Content | None, wanted: Mapping[str, Record], shares: Mapping[str, Share]
) -> tuple[dict[str, Factors], tuple[tuple[str, Direct], ...]]:
    """The factors of each adapter, and what it has beside them: from its share or, where it is held, from the bank."""
    factors: dict[str, Factors] = {}
    directs: list[tuple[str, Direct]] = []
    known = {} if content is None else dict(content.directs)
    for name in wanted:
        share = shares.get(name)
        if share is not None:
            if share.factors is not None:
                factors[name] = share.factors
            direct = share.direct
        else:
            rows = None if content is None else content.rows.get(name)
            if content is not None and rows is not None:
                cut = slice(rows.start, rows.stop)
                factors[name] = content.down[cut], content.up[:, cut], rows.scaling
            direct = known.get(name)
        if direct is not None:
            directs.append((name, direct))
    return factors, tuple(directs)


def _placed(factors: Mapping[str, Factors]) -> dict[str, Rows]:
    """Rows of each adapter: one after the other without gaps, so that any order of operations gives the same layout."""
    rows: dict[str, Rows] = {}
    start = 0
    for name, (down, _, scaling) in factors.items():
        rows[name] = Rows(start, start + down.shape[0], scaling)
        start += down.shape[0]
    return rows


def _used(content: Content) -> int:
    return max((rows.stop for rows in content.rows.values()), default=0)


def _write_rows(down: Tensor, up: Tensor, rows: Rows, own_down: Tensor, own_up: Tensor) -> None:
    if own_down.ndim != down.ndim:  # a Linear's factors on a 1 x 1 convolution, or the other way round
        own_down = own_down.reshape(-1, *down.shape[1:])
    copy_numbers(down[rows.start : rows.stop], own_down)
    copy_numbers(up[:, rows.start : rows.stop], own_up)


def copied(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A copy of a tensor, cast as :func:`copy_numbers` does it."""
    source = tensor.float() if _are_two_halves(dtype, tensor.dtype) else tensor
    return source.to(device, dtype, copy=True, memory_format=torch.contiguous_format)


def copy_numbers(into: Tensor, source: Tensor) -> None:
    """Copy with a cast; between the two half precisions by way of float32, which torch does in a third of the time."""
    into.copy_(source.float() if _are_two_halves(into.dtype, source.dtype) else source)


def _are_two_halves(one: torch.dtype, other: torch.dtype) -> bool:
    return one is not other and one in HALVES and other in HALVES
