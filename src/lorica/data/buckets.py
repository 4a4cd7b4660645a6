"""Aspect-ratio buckets: the frame that each picture is cut to, so that little of it is lost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lorica.data.images import View, covering_size
from lorica.errors import ConfigError, DataError


class Size(NamedTuple):
    """Width and height in pixels, in Pillow's order."""

    width: int
    height: int

    def __str__(self) -> str:
        """Size as in ``640x384``."""
        return f"{self.width}x{self.height}"


class SizeConditioning(NamedTuple):
    """Size conditioning of SDXL (Podell et al. 2023, arXiv:2307.01952, section 2.2); height before width.

    ``original`` is the size of the file, ``crop`` the top and left of the cut in the picture after it was resized and
    mirrored, ``target`` the frame.
    """

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]

    def row(self) -> Tensor:
        """Tensor of the six numbers in this order, ``(6,)``, as SDXL reads them."""
        return torch.tensor([*self.original, *self.crop, *self.target], dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class BucketPlan:
    """Frame of each picture: ``frames[i]`` for the picture of size ``sizes[i]``."""

    sizes: tuple[Size, ...]
    frames: tuple[Size, ...]

    def members(self, indices: Iterable[int] | None = None) -> dict[Size, tuple[int, ...]]:
        """Pictures of each bucket, wide buckets first.

        Args:
            indices: the pictures of an epoch, each as often as it comes; None stands for each once.
        """
        found: dict[Size, list[int]] = {}
        for index in range(len(self.frames)) if indices is None else indices:
            found.setdefault(self.frames[index], []).append(index)
        return {frame: tuple(found[frame]) for frame in sorted(found, key=_by_shape)}

    @property
    def enlarged(self) -> int:
        """Number of pictures that are smaller than their frame in width or height, and so are enlarged."""
        return sum(not covers(size, frame) for size, frame in zip(self.sizes, self.frames, strict=True))

    @property
    def lost(self) -> tuple[float, ...]:
        """Share of each picture that is cut off, 0 to 1, at a size that just covers the frame."""
        pairs = zip(self.sizes, self.frames, strict=True)
        return tuple(1 - math.prod(frame) / math.prod(covering_size(size, frame)) for size, frame in pairs)

    def table(self, batch: int) -> str:
        """Plan as text: a line per bucket, then how much is enlarged, cut off and seen twice per epoch.

        Args:
            batch: number of pictures in a micro-batch.
        """
        counts, count, lost = Counter(self.frames), len(self.frames), self.lost
        ordered = [(frame, counts[frame]) for frame in sorted(counts, key=_by_shape)]
        rows = [f"{frame!s:>9}  {number:>8}  {-(-number // batch):>7}" for frame, number in ordered]
        again = sum(-number % batch for number in counts.values())
        cut = sum(share > 0 for share in lost)
        facts = (
            f"{count} pictures: {self.enlarged} enlarged ({self.enlarged / count:.1%}), {cut} cut "
            f"({cut / count:.1%}; {sum(lost) / count:.1%} of a picture on average, {max(lost):.1%} at most), "
            f"{again} seen twice an epoch to fill batches of {batch}."
        )
        return "\n".join(["   bucket  pictures  batches", *rows, facts])


def plan_buckets(
    sizes: Sequence[tuple[int, int]],
    *,
    area: int,
    step: int,
    least: int,
    most: int,
    no_upscale: bool = False,
    names: Sequence[str] | None = None,
) -> BucketPlan:
    """Assign every picture the frame nearest in aspect: the least ``|ln(w / h) - ln(W / H)|``, the larger of equals.

    The frames are those of :func:`all_frames`. With ``no_upscale`` a picture that does not cover its frame gets the
    nearest of the smaller frames that it does cover; those may have sides below ``least``.

    Args:
        sizes: width and height of each picture, as ``picture_size`` gives them.
        area: the most pixels of a frame, the resolution squared.
        step: the sides of a frame are multiples of it.
        least: the shortest side of a frame, a multiple of ``step``.
        most: the longest.
        no_upscale: never enlarge a picture.
        names: the files, for messages.

    Raises:
        ConfigError: if no frame can be made with these numbers.
        DataError: if a picture is smaller than ``step`` and must not be enlarged, or there is no picture.
    """
    _check(area, step, least, most)
    if not sizes:
        raise DataError("there is no picture to put into buckets.")
    regular = all_frames(area, step, Size(least, least), Size(most, most))
    chosen: dict[Size, Size] = {}
    for number, size in enumerate(Size(*pair) for pair in sizes):
        if size in chosen:
            continue
        chosen[size] = nearest(size, regular)
        if no_upscale and not covers(size, chosen[size]):
            if min(size) < step:
                raise DataError(_too_small(names[number] if names else f"picture {number + 1}", size, step))
            chosen[size] = nearest(size, _smaller_frames(size, area, step, least, most))
    found = tuple(Size(*pair) for pair in sizes)
    return BucketPlan(found, tuple(chosen[size] for size in found))


def all_frames(area: int, step: int, least: Size, most: Size) -> list[Size]:
    """Frames within limits, sides multiples of ``step``: for each width the tallest, for each height the widest.

    No frame has more than ``area`` pixels.
    """
    tall = {Size(width, _multiple(min(area // width, most.height), step)) for width in _sides(0, step, least, most)}
    wide = {Size(_multiple(min(area // height, most.width), step), height) for height in _sides(1, step, least, most)}
    fitting = (frame for frame in tall | wide if frame.width >= least.width and frame.height >= least.height)
    return sorted(fitting, key=_by_shape)


def nearest(size: Size, frames: Iterable[Size]) -> Size:
    """Frame nearest in aspect to a picture; of equals the largest, then the widest."""
    aspect = math.log(size.width / size.height)
    return min(frames, key=lambda frame: (_gap(aspect, frame), -math.prod(frame), -frame.width))


def covers(size: tuple[int, int], frame: tuple[int, int]) -> bool:
    """Whether a picture fills a frame without being enlarged."""
    return size[0] >= frame[0] and size[1] >= frame[1]


def size_conditioning(size: Size, frame: Size, view: View) -> SizeConditioning:
    """Size conditioning of one view of a picture; in a mirrored view the left is that after mirroring."""
    width, height = covering_size(size, frame)
    spare = width - frame.width, height - frame.height
    left, top = round(view.left * spare[0]), round(view.top * spare[1])
    return SizeConditioning(
        original=(size.height, size.width),
        crop=(top, spare[0] - left if view.flip else left),
        target=(frame.height, frame.width),
    )


def _smaller_frames(size: Size, area: int, step: int, least: int, most: int) -> list[Size]:
    """Frames that a small picture covers; one side at least is as long as the picture allows."""
    inside = Size(_multiple(size.width, step), _multiple(size.height, step))
    shortest = Size(min(least, inside.width), min(least, inside.height))
    return all_frames(area, step, shortest, Size(min(most, inside.width), min(most, inside.height)))


def _sides(axis: int, step: int, least: Size, most: Size) -> range:
    return range(least[axis], most[axis] + 1, step)


def _multiple(length: int, step: int) -> int:
    return length // step * step


def _gap(aspect: float, frame: Size) -> float:
    return round(abs(aspect - math.log(frame.width / frame.height)), 12)  # the same shape at two sizes is a tie


def _by_shape(frame: Size) -> tuple[float, int]:
    return frame.height / frame.width, -frame.width


def _too_small(name: str, size: Size, step: int) -> str:
    return (
        f"{name} has {size} pixels, less than the step of {step} between buckets, and must not be enlarged: "
        "remove it, or allow enlarging (leave out bucket_no_upscale)."
    )


def _check(area: int, step: int, least: int, most: int) -> None:
    if step < 1 or least % step or most % step or least < step:
        raise ConfigError(f"the sides of buckets must be multiples of their step {step}, got {least} to {most}.")
    if least > most:
        raise ConfigError(f"the shortest side of a bucket, {least}, is above the longest, {most}.")
    if least * least > area:
        raise ConfigError(
            f"no bucket of {area} pixels has sides of at least {least}: lower the shortest side or raise resolution."
        )
