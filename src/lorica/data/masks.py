"""Masks of the loss: from a folder or the alpha channel, at the size of latents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lorica.data.colour import to_rgb
from lorica.data.decoding import has_alpha, named, open_picture
from lorica.data.images import View, fit
from lorica.errors import ConfigError, DataError

BLACK = (0, 0, 0)


class MaskSource(NamedTuple):
    """File that holds the mask of a picture: one of its own, or the picture's own file and there its alpha channel."""

    content: bytes
    path: Path
    is_alpha: bool


def mask_source(path: Path, content: bytes, mask: Path | None) -> MaskSource | None:
    """Source of a picture's mask: its mask file, else its alpha channel; None without either.

    Args:
        path: the picture, for messages.
        content: the bytes of the picture.
        mask: its mask file.

    Raises:
        DataError: if a file cannot be read.
    """
    if mask is None:
        return MaskSource(content, path, is_alpha=True) if has_alpha(content, path) else None
    try:
        return MaskSource(mask.read_bytes(), mask, is_alpha=False)
    except OSError as error:
        raise DataError(f"cannot read the mask {mask}: {error}.") from error


def open_mask(source: MaskSource, size: tuple[int, int]) -> Image.Image:
    """Mask in grey, at the size of its picture.

    Raises:
        DataError: if it cannot be read or has another aspect than the picture.
    """
    if not source.is_alpha:
        return load_mask(source.content, source.path, size)
    with named(source.path):
        return open_picture(source.content, source.path).convert("RGBA").getchannel("A")


def load_mask(content: bytes, path: Path, size: tuple[int, int]) -> Image.Image:
    """Mask file in grey: white has full weight, black and transparent parts the weight of the unmasked area.

    Args:
        content: the bytes of the file.
        path: its name, for messages.
        size: width and height of the picture; a mask of the same aspect is resized to it.

    Raises:
        DataError: if the bytes are not a whole picture, or its aspect is not that of the picture.
    """
    with named(path):
        opened = open_picture(content, path)
        opened.info.pop("icc_profile", None)  # the values of a mask are weights, not colours
        mask = to_rgb(opened, background=BLACK).convert("L")
    if abs(mask.height * size[0] / mask.width - size[1]) > 1:
        raise DataError(
            f"the mask {path} has {mask.width}x{mask.height} pixels but its picture {size[0]}x{size[1]}: "
            "make it the same shape."
        )
    return mask if mask.size == size else mask.resize(size, Image.Resampling.BOX)


def latent_mask(mask: Image.Image, height: int, width: int, view: View, factor: int) -> Tensor:
    """Mask at the size of the latents of one view, ``(1, height / factor, width / factor)``, 0 to 1.

    It is resized, cut and mirrored as the picture is; then each cell is the mean of its ``factor * factor`` pixels.

    Args:
        mask: grey, at the size of the picture.
        height: that of the frame in pixels, a multiple of ``factor``.
        width: likewise.
        view: how the picture is seen.
        factor: pixels per side of one cell of the latents.
    """
    cut = fit(mask, height, width, view, "box")
    values = torch.from_numpy(np.asarray(cut, dtype=np.float32) / 255)
    return F.avg_pool2d(values[None], factor)


def area_weights(mask: Tensor, unmasked: float) -> Tensor:
    """``unmasked + (1 - unmasked) * mask``: 1 where the mask is white, ``unmasked`` where it is black.

    Raises:
        ConfigError: if ``unmasked`` is not within 0 to 1.
    """
    if not 0 <= unmasked <= 1:
        raise ConfigError(f"the weight of the unmasked area must be within 0 to 1, got {unmasked}.")
    return unmasked + (1 - unmasked) * mask


def stack_areas(masks: Sequence[Tensor | None], unmasked: float) -> Tensor | None:
    """Weight of each cell of the samples of a batch, ``(b, 1, h, w)``; None if no sample has a mask.

    Args:
        masks: that of each sample, ``(1, h, w)``; a sample without one has weight 1 everywhere.
        unmasked: the weight where a mask is black.
    """
    known = next((mask for mask in masks if mask is not None), None)
    if known is None:
        return None
    return torch.stack([torch.ones_like(known) if mask is None else area_weights(mask, unmasked) for mask in masks])
