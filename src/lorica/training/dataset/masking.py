"""The masks of a picture's views, at the size of its latents, through the cache."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lorica.data.buckets import Size
from lorica.data.cache import Cache, digest_of_bytes, key_of
from lorica.data.groups import Group
from lorica.data.images import View
from lorica.data.masks import MaskSource, latent_mask, open_mask
from lorica.data.picture_files import MASK_FOLDER
from lorica.errors import ConfigError, DataError
from lorica.training.dataset.dataset import Sample
from lorica.training.progress import Reporter


def encode_masks(
    source: MaskSource, size: tuple[int, int], frame: Size, views: Sequence[View], cells: int, cache: Cache
) -> tuple[Tensor, ...]:
    """Return the mask of each view, ``(1, h, w)``, or take them from the cache.

    They depend on the bytes of the mask, not of the picture: a changed mask does not make its picture be encoded anew.

    Args:
        source: where the mask comes from.
        size: width and height of the picture.
        frame: what the picture is cut to.
        views: how it is seen.
        cells: how many rows its latents have.
        cache: where masks are kept.

    Raises:
        DataError: if the mask cannot be read, has another shape than the picture, or is black everywhere.
    """
    digest = digest_of_bytes(source.content)
    keys = [key_of("mask", digest, source.is_alpha, *size, *frame, *view, cells) for view in views]
    kept = [cache.look_up(key) for key in keys]
    if all(kept):
        return tuple(found["mask"] for found in kept if found)
    mask = open_mask(source, size)
    if mask.getextrema()[1] == 0:
        what = "is transparent everywhere" if source.is_alpha else "is black everywhere"
        raise DataError(
            f"the mask {source.path} {what}, so nothing would be learnt from its picture; remove one of them."
        )
    masks = [latent_mask(mask, frame.height, frame.width, view, frame.height // cells) for view in views]
    return tuple(cache.keep(key, {"mask": found})["mask"] for key, found in zip(keys, masks, strict=True))


def check_masks(examples: Sequence[Sample], groups: Sequence[Group], reporter: Reporter) -> None:
    """Say how many pictures have a mask.

    Raises:
        ConfigError: if masks are to count and no picture has one.
    """
    masked = [example for example in examples if groups[example.item.group].masked]
    if not masked:
        return
    found = sum(example.has_mask for example in masked)
    if not found:
        raise ConfigError(
            f"masked_loss is set, but none of {len(masked)} pictures has a mask: put masks of the same names into a "
            f"folder {MASK_FOLDER!r} beside the pictures, give the pictures an alpha channel, or leave masked_loss out."
        )
    reporter.say(f"{found} of {len(masked)} pictures have a mask; the others count in full")
