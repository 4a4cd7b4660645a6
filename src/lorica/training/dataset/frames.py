"""The frame that each picture is cut to: the same square for all, or that of its bucket."""

from __future__ import annotations

from collections.abc import Sequence

from lorica.data.buckets import BucketPlan, plan_buckets
from lorica.data.images import picture_size
from lorica.data.items import Item
from lorica.errors import ConfigError
from lorica.training.config.config import RunConfig


def plan_frames(items: Sequence[Item], config: RunConfig, side: int, multiple: int) -> BucketPlan | None:
    """Return the buckets of a run, or None if all pictures become squares.

    Raises:
        ConfigError: if no frame can be made with the settings, or the model cannot take one.
        DataError: if a picture cannot be read, or is too small and must not be enlarged.
    """
    if not config.use_aspect_ratio_buckets:
        return None
    step = config.bucket_reso_steps or multiple
    if step % multiple:
        raise ConfigError(f"bucket_reso_steps is {step}; this model needs a multiple of {multiple}.")
    return plan_buckets(
        [picture_size(item.read(), item.path) for item in items],
        area=side * side,
        step=step,
        least=config.min_bucket_reso or max(step, side // 2 // step * step),
        most=config.max_bucket_reso or 2 * side // step * step,
        no_upscale=config.bucket_no_upscale,
        names=[item.path.name for item in items],
    )
