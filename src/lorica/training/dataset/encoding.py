"""From picture files and captions to a data set in memory, through the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from lorica.data.batches import fill_buckets
from lorica.data.buckets import BucketPlan, Size, size_conditioning
from lorica.data.cache import Cache, digest_of_bytes, key_of
from lorica.data.groups import Group, one_group
from lorica.data.images import View, fit, fits_exactly, load_picture, picture_size, to_tensor, views_of
from lorica.data.items import Item
from lorica.data.masks import MaskSource, mask_source
from lorica.training.dataset.dataset import Dataset, Example, Sample
from lorica.training.dataset.framing import Framing
from lorica.training.dataset.live import LiveExample
from lorica.training.dataset.masking import check_masks, encode_masks
from lorica.training.dataset.texts import encode_texts
from lorica.training.progress import Reporter
from lorica.training.recipes.recipe import Latents, Recipe
from lorica.training.rng import generator

AHEAD = 4  # pictures that each worker may decode before they are needed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """A picture file.

    Args:
        digest: that of its bytes.
        size: its width and height.
        views: how it is seen.
        found: for each view the cache's key with what it holds, or the pixels to encode.
        mask: where its mask comes from, if it has one that counts.
    """

    digest: str
    size: tuple[int, int]
    views: Sequence[View]
    found: Sequence[tuple[str, Latents | Tensor]]
    mask: MaskSource | None


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
    read = partial(_read, framing=framing, model_key=identities.pictures, cache=cache, groups=groups)
    frames = buckets.frames if buckets else [Size(framing.side, framing.side)] * len(items)
    places = list(zip(items, frames, strict=True))
    examples: list[Sample] = []
    contents: list[tuple[str, ...]] = []
    with reporter.progress("encoding pictures", len(items)) as advance:
        for (item, frame), file in zip(places, _ahead(read, places, workers), strict=True):
            examples.append(_example(item, frame, file, recipe, framing, cache))
            contents.append((file.digest, *_digest_of_mask(file), *item.captions))
            advance()
    check_masks(examples, groups, reporter)
    filled = fill_buckets(buckets, [group.source for group in groups]) if buckets else None
    return Dataset(tuple(examples), texts, key_of(*contents), identities, filled)


def _read(
    place: tuple[Item, Size], *, framing: Framing, model_key: str, cache: Cache, groups: Sequence[Group]
) -> _Read:
    item, (width, height) = place
    content = item.read()
    digest, size = digest_of_bytes(content), picture_size(content, item.path)
    crops = 1 if fits_exactly(size, height, width) or framing.live else framing.crops
    views = views_of(digest, partial(generator, framing.seed, 0), crops=crops, flip=framing.flip)
    mask = mask_source(item.path, content, item.mask) if groups[item.group].masked else None
    if framing.live:
        return _Read(digest=digest, size=size, views=views, found=(), mask=mask)
    keys = [key_of("picture", model_key, digest, height, width, *view, framing.interpolation) for view in views]
    kept = [cache.look_up(key) for key in keys]
    ready = [Latents(**found) for found in kept if found]
    found = ready if len(ready) == len(keys) else _pixels(content, place, views, framing)
    return _Read(
        digest=digest,
        size=size,
        views=views,
        found=list(zip(keys, found, strict=True)),
        mask=mask,
    )


def _pixels(content: bytes, place: tuple[Item, Size], views: Sequence[View], framing: Framing) -> list[Tensor]:
    item, (width, height) = place
    picture = load_picture(content, item.path)
    return [to_tensor(fit(picture, height, width, view, framing.interpolation)) for view in views]


def _example(item: Item, frame: Size, file: _Read, recipe: Recipe, framing: Framing, cache: Cache) -> Sample:
    if framing.live:
        return LiveExample(item=item, frame=frame, framing=framing, recipe=recipe, has_mask=file.mask is not None)
    latents = tuple(_encode(key, found, recipe, cache) for key, found in file.found)
    sizes = tuple(size_conditioning(Size(*file.size), frame, view) for view in file.views)
    return Example(item, latents, sizes, _masks(file, frame, latents, cache))


def _encode(key: str, found: Latents | Tensor, recipe: Recipe, cache: Cache) -> Latents:
    if isinstance(found, Latents):
        return found
    latents = recipe.encode_picture(found)
    return Latents(**cache.keep(key, latents._asdict()))


def _masks(file: _Read, frame: Size, latents: Sequence[Latents], cache: Cache) -> tuple[Tensor, ...]:
    if file.mask is None:
        return ()
    return encode_masks(file.mask, file.size, frame, file.views, latents[0].mean.shape[1], cache)


def _digest_of_mask(file: _Read) -> tuple[str, ...]:
    return () if file.mask is None else (digest_of_bytes(file.mask.content),)


def _ahead(read: partial[_Read], items: Sequence[tuple[Item, Size]], workers: int) -> Iterator[_Read]:
    """Read the files in order; with workers, some ahead of their use in other threads."""
    if workers == 0:
        yield from map(read, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(items), chunk := workers * AHEAD):
            yield from pool.map(read, items[start : start + chunk])
