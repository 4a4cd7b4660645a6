"""Pictures that are not trained on, so that the loss on them says how much was learnt and not only remembered."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorica.data.buckets import Size, size_conditioning
from lorica.data.cache import Cache, cache_folder, digest_of_bytes, key_of
from lorica.data.images import View, fit, load_picture, picture_size, to_tensor
from lorica.data.items import Item, find_items
from lorica.errors import DataError
from lorica.runtime.trainable.random_keys import keyed_generator
from lorica.training.config.config import RunConfig
from lorica.training.dataset.dataset import Dataset
from lorica.training.dataset.sifting import leave_out_bad
from lorica.training.dataset.sources import sets_of
from lorica.training.dataset.texts import whole_texts
from lorica.training.dataset.validation import HeldOut, Validation
from lorica.training.progress import Reporter
from lorica.training.recipes.recipe import Latents, Recipe

CENTER = View()


def hold_out(
    config: RunConfig, items: Sequence[Item], cache: Cache, reporter: Reporter
) -> tuple[list[Item], list[Item]]:
    """Return the pictures to train on and those that are held out.

    Which are held out of a split depends on the pictures alone, not on the seed, so that runs can be compared.
    Pictures of regularisation sets are not.

    Raises:
        DataError: if the folder cannot be used, or too few pictures are left.
    """
    if config.validation_data_dir is not None:
        held = find_items(
            config.validation_data_dir,
            caption_column=config.caption_column,
            caption=config.instance_prompt,
            one_a_line=config.enable_wildcards,
        )
        held = leave_out_bad(held, cache, reporter) if config.on_bad_image == "skip" else held
        reporter.say(f"{len(held)} pictures in {config.validation_data_dir} to measure the loss on")
        return list(items), held
    if config.validation_split is None:
        return list(items), []
    sets = sets_of(config)
    numbers = [number for number, item in enumerate(items) if not sets[item.group].is_reg]
    count = max(1, round(config.validation_split * len(numbers)))
    if count >= len(numbers):
        raise DataError(
            f"validation_split {config.validation_split:g} of {len(numbers)} pictures leaves none to train on: "
            "add pictures, lower it, or name other pictures with validation_data_dir."
        )
    order = torch.randperm(len(numbers), generator=keyed_generator("validation split"))[:count]
    chosen = {numbers[place] for place in order.tolist()}
    reporter.say(f"{count} of {len(numbers)} pictures are held out to measure the loss on")
    left = [item for number, item in enumerate(items) if number not in chosen]
    return left, [items[number] for number in sorted(chosen)]


def prepare_validation(
    config: RunConfig, held: Sequence[Item], recipe: Recipe, dataset: Dataset, side: int
) -> Validation | None:
    """Encode the pictures that are held out; None if there are none.

    Raises:
        DataError: if a picture cannot be read.
    """
    if not held:
        return None
    cache = Cache(None if config.no_cache else cache_folder())
    frame = Size(side, side)
    pictures = [_held(item, recipe, dataset, frame, config.image_interpolation_mode, cache) for item in held]
    every = config.validation_loss_steps or config.checkpointing_steps
    return Validation(pictures, config.validation_loss_levels, every)


def _held(item: Item, recipe: Recipe, dataset: Dataset, frame: Size, interpolation: str, cache: Cache) -> HeldOut:
    content, identities = item.read(), dataset.identities
    digest = digest_of_bytes(content)
    text = whole_texts(item, dataset.groups[item.group].edits)[0]
    picture = key_of("picture", identities.pictures, digest, frame.height, frame.width, *CENTER, interpolation)

    def encode() -> dict[str, torch.Tensor]:
        pixels = to_tensor(fit(load_picture(content, item.path), frame.height, frame.width, CENTER, interpolation))
        return recipe.encode_picture(pixels)._asdict()

    latents = Latents(**cache.get(picture, encode)).mean
    told = cache.get(key_of("text", identities.text, text), lambda: recipe.encode_text(text))
    sizes = size_conditioning(Size(*picture_size(content, item.path)), frame, CENTER).row()
    return HeldOut(latents, sizes, told, digest)
