"""Picture files and captions to a data set, through the cache."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from lorica.data.batches import fill_buckets
from lorica.data.buckets import BucketPlan, Size, size_conditioning
from lorica.data.cache import Cache, CachedSequence, digest_of_bytes, key_of
from lorica.data.colour import colour_version
from lorica.data.decoding import load_picture, picture_size
from lorica.data.groups import Group, one_group
from lorica.data.images import View, fit, fits_exactly, to_tensor, views_of
from lorica.data.items import Item
from lorica.data.masks import MaskSource, latent_mask, mask_source, open_mask
from lorica.data.picture_files import MASK_FOLDER
from lorica.errors import ConfigError, DataError
from lorica.printing import readable_bytes
from lorica.rng import generator
from lorica.training.dataset.dataset import Dataset
from lorica.training.dataset.framing import Framing
from lorica.training.dataset.samples import Example, LiveExample, Sample
from lorica.training.dataset.texts import encode_texts
from lorica.training.progress import Reporter
from lorica.training.recipes.recipe import Latents, Recipe

SHORT = 16  # hexadecimal digits of a picture's digest in a checkpoint
AHEAD = 4  # pictures that each worker may decode before they are needed
FramedItem = tuple[Item, Size]  # a picture, and the size that it is cut to


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFile:
    """A picture file, read and decoded as far as the cache does not hold it.

    Args:
        digest: that of its bytes.
        size: its width and height.
        views: its crops.
        found: for each view the cache's key with the latents, or with the pixels to encode.
        mask: where its mask comes from, if it has one that counts.
    """

    digest: str
    size: Size
    views: Sequence[View]
    found: Sequence[tuple[str, Latents | Tensor]]
    mask: MaskSource | None

    @property
    def contents(self) -> tuple[str, ...]:
        """Digests of the picture, and of its mask if it has one."""
        return (self.digest,) if self.mask is None else (self.digest, digest_of_bytes(self.mask.content))


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureEncoder:
    """Picture files to samples, through the cache.

    Args:
        recipe: encodes pixels.
        model_key: digest of everything that latents depend on.
        framing: how pictures are cut.
        cache: latents and masks by content.
        groups: the data sets whose masks count; empty for none.
    """

    recipe: Recipe
    model_key: str
    framing: Framing
    cache: Cache
    groups: Sequence[Group] = ()

    def read(self, place: FramedItem) -> PictureFile:
        """Read a picture, and decode it unless all its latents are in the cache. Safe in several threads.

        Raises:
            DataError: if it cannot be read.
        """
        item, frame = place
        content = item.read()
        digest, size = digest_of_bytes(content), Size(*picture_size(content, item.path))
        crops = 1 if fits_exactly(size, frame.height, frame.width) or self.framing.live else self.framing.crops
        views = views_of(digest, partial(generator, self.framing.seed, 0), crops=crops, flip=self.framing.flip)
        masked = bool(self.groups) and self.groups[item.group].masked
        mask = mask_source(item.path, content, item.mask) if masked else None
        found = [] if self.framing.live else self._find(content, digest, place, views)
        return PictureFile(digest=digest, size=size, views=views, found=found, mask=mask)

    def encode(self, place: FramedItem, file: PictureFile) -> Sample:
        """The sample of a picture that was read."""
        item, frame = place
        if self.framing.live:
            has_mask = file.mask is not None
            return LiveExample(item=item, frame=frame, framing=self.framing, recipe=self.recipe, has_mask=has_mask)
        return self.example(place, file)

    def example(self, place: FramedItem, file: PictureFile) -> Example:
        """The sample of a picture whose views are encoded now."""
        item, frame = place
        encoded = [self._latents(key, found) for key, found in file.found]
        tensors = [found._asdict() for found in encoded]
        latents = self.cache.sequence([key for key, _ in file.found], tensors, Latents)
        sizes = tuple(size_conditioning(file.size, frame, view) for view in file.views)
        masks: Sequence[Tensor] = ()
        if file.mask is not None:
            masks = encode_masks(file.mask, file.size, frame, file.views, encoded[0].mean.shape[1], self.cache)
        return Example(item, latents, sizes, masks)

    def _find(
        self, content: bytes, digest: str, place: FramedItem, views: Sequence[View]
    ) -> list[tuple[str, Latents | Tensor]]:
        item, (width, height) = place
        how = self.framing.interpolation
        keys = [
            key_of("picture", colour_version(), self.model_key, digest, height, width, *view, how) for view in views
        ]
        kept = [self.cache.look_up(key) for key in keys]
        if all(kept):
            return [(key, Latents(**found)) for key, found in zip(keys, kept, strict=True) if found]
        picture = load_picture(content, item.path)
        pixels = (to_tensor(fit(picture, height, width, view, how)) for view in views)
        return list(zip(keys, pixels, strict=True))

    def _latents(self, key: str, found: Latents | Tensor) -> Latents:
        if isinstance(found, Latents):
            return found
        return Latents(**self.cache.keep(key, self.recipe.encode_picture(found)._asdict()))


def load_dataset(
    items: Sequence[Item],
    recipe: Recipe,
    framing: Framing,
    cache: Cache,
    *,
    reporter: Reporter,
    workers: int = 0,
    groups: Sequence[Group] | None = None,
    buckets: BucketPlan | None = None,
) -> Dataset:
    """Encode every view of every picture, and every text that its captions can become, or take them from the cache.

    Raises:
        DataError: if a picture cannot be read.
    """
    identities = recipe.identify()
    groups = groups or one_group(items)
    texts = encode_texts(items, groups, recipe, identities.text, cache)
    encoder = PictureEncoder(recipe=recipe, model_key=identities.pictures, framing=framing, cache=cache, groups=groups)
    frames = buckets.frames if buckets else [Size(framing.side, framing.side)] * len(items)
    places = list(zip(items, frames, strict=True))
    examples: list[Sample] = []
    contents: list[tuple[str, ...]] = []
    with reporter.progress("encoding pictures", len(items)) as advance:
        for place, file in zip(places, _read_ahead(encoder, places, workers), strict=True):
            examples.append(encoder.encode(place, file))
            contents.append((*file.contents, *place[0].captions))
            advance()
    check_masks(examples, groups, reporter)
    if not reporter.quiet:
        reporter.say(cache_line(examples, cache))
    filled = fill_buckets(buckets, [group.source for group in groups]) if buckets else None
    files = dict(zip(_names(items), (key_of(*content)[:SHORT] for content in contents), strict=True))
    return Dataset(tuple(examples), texts, key_of(*contents), identities, filled, files)


def encode_masks(
    source: MaskSource, size: tuple[int, int], frame: Size, views: Sequence[View], cells: int, cache: Cache
) -> Sequence[Tensor]:
    """The mask of each view, ``(1, h, w)``, at the size of its latents, through the cache.

    The cache's keys hold the bytes of the mask, not of the picture: a changed mask does not make its picture be encoded
    anew.

    Args:
        source: where the mask comes from.
        size: width and height of the picture.
        frame: the size that the picture is cut to.
        views: its crops.
        cells: number of rows of its latents.
        cache: where masks are kept.

    Raises:
        DataError: if the mask cannot be read, has another shape than the picture, or is black everywhere.
    """
    digest = digest_of_bytes(source.content)
    keys = [key_of("mask", digest, source.is_alpha, *size, *frame, *view, cells) for view in views]
    kept = [cache.look_up(key) for key in keys]
    if all(kept):
        return cache.sequence(keys, [found for found in kept if found], _mask_of)
    mask = open_mask(source, size)
    if mask.getextrema()[1] == 0:
        what = "is transparent everywhere" if source.is_alpha else "is black everywhere"
        raise DataError(
            f"the mask {source.path} {what}, so nothing would be learnt from its picture; remove one of them."
        )
    masks = [latent_mask(mask, frame.height, frame.width, view, frame.height // cells) for view in views]
    kept = [cache.keep(key, {"mask": found}) for key, found in zip(keys, masks, strict=True)]
    return cache.sequence(keys, kept, _mask_of)


def cache_line(examples: Sequence[Sample], cache: Cache) -> str:
    """Where the latents of a run are and how much they take, for people."""
    kept = [example for example in examples if isinstance(example, Example)]
    if not kept:
        return "pictures are encoded each time they are drawn: neither memory nor disk holds their latents"
    views = sum(len(example.views) for example in kept)
    size = readable_bytes(views * sum(part.numel() * part.element_size() for part in kept[0].views[0]))
    if not isinstance(kept[0].views, CachedSequence):
        return f"the latents of {views} views take {size} of memory"
    return (
        f"the latents of {views} views take {size} of the disk and none of the memory; the whole cache {cache.folder} "
        f"has {readable_bytes(cache.contents().size)} (bound it by: lorica cache --limit 20GB)"
    )


def _mask_of(mask: Tensor) -> Tensor:
    return mask


def check_masks(examples: Sequence[Sample], groups: Sequence[Group], reporter: Reporter) -> None:
    """Report how many pictures have a mask.

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


def _names(items: Sequence[Item]) -> list[str]:
    """Names of pictures below the folder that holds them all; a number makes those of one name differ."""
    top = Path(os.path.commonpath([item.path.parent for item in items]))
    seen: Counter[str] = Counter()
    names: list[str] = []
    for item in items:
        name = item.path.relative_to(top).as_posix()
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def _read_ahead(encoder: PictureEncoder, places: Sequence[FramedItem], workers: int) -> Iterator[PictureFile]:
    """Read the files in order; with workers, some ahead of their use in other threads."""
    if workers == 0:
        yield from map(encoder.read, places)
        return
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(places), chunk := workers * AHEAD):
            yield from pool.map(encoder.read, places[start : start + chunk])
