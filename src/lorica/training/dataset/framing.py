"""How pictures are cut to size: one square for all, or the frame of each picture's bucket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorica.data.buckets import BucketPlan, plan_buckets
from lorica.data.decoding import picture_size
from lorica.data.items import Item
from lorica.errors import ConfigError
from lorica.training.config.inputs import PictureSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How the pictures of a run are cut.

    Args:
        side: that of the square, where there are no buckets.
        crops: number of crops of each picture that are cached; 1 means the middle.
        flip: whether each crop is also mirrored.
        interpolation: the filter by which pictures are resized.
        seed: crops at random are a function of it.
        live: cut and encode pictures each time they are drawn; then ``crops`` above 1 means anywhere.
    """

    side: int
    crops: int
    flip: bool
    interpolation: str
    seed: int
    live: bool = False


def plan_frames(items: Sequence[Item], settings: PictureSettings, side: int, multiple: int) -> BucketPlan | None:
    """The buckets of a run, or None if all pictures become squares.

    Raises:
        ConfigError: if no frame can be made with the settings, or the model cannot take one.
        DataError: if a picture cannot be read, or is too small and must not be enlarged.
    """
    if not settings.use_aspect_ratio_buckets:
        return None
    step = settings.bucket_reso_steps or multiple
    if step % multiple:
        raise ConfigError(f"bucket_reso_steps is {step}; this model needs a multiple of {multiple}.")
    return plan_buckets(
        [picture_size(item.read(), item.path) for item in items],
        area=side * side,
        step=step,
        least=settings.min_bucket_reso or max(step, side // 2 // step * step),
        most=settings.max_bucket_reso or 2 * side // step * step,
        no_upscale=settings.bucket_no_upscale,
        names=[item.path.name for item in items],
    )
