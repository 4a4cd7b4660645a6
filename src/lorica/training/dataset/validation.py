"""The loss on pictures that are not trained on, with fixed noise and noise levels (decision 0017).

It is the plain squared error, whatever loss the run trains with, of the middle of each picture, whatever its crops, and
of its first caption with nothing dropped or shuffled. The latents are the mean of the autoencoder's distribution, and
the noise is a function of the picture's content alone. So two runs that hold out the same pictures can be compared,
whatever their seeds, batches and settings; only the base model and the resolution must be the same, and the prediction.

Nothing here draws from a generator of the training, and the adapter is only read: training goes on bit for bit as if
nothing had been measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorica.data.buckets import Size
from lorica.data.cache import Cache, digest_of_bytes
from lorica.data.items import NAMED, Item, find_items
from lorica.data.picture_files import list_folder
from lorica.errors import DataError
from lorica.printing import printable
from lorica.rng import generator
from lorica.training.config.datasets import SetSettings
from lorica.training.config.inputs import DataSettings
from lorica.training.config.objective import ObjectiveSettings
from lorica.training.config.output import ValidationSettings
from lorica.training.dataset.dataset import Dataset
from lorica.training.dataset.encoding import PictureEncoder
from lorica.training.dataset.framing import Framing
from lorica.training.dataset.sources import leave_out_unreadable
from lorica.training.dataset.texts import encode_text, whole_texts
from lorica.training.objective.losses import Batch, sample_losses
from lorica.training.progress import Reporter
from lorica.training.recipes.recipe import Conditioning, Recipe, evaluating

PLAIN = ObjectiveSettings.model_validate({})


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A picture that is not trained on: latents ``(c, h, w)``, sizes ``(6,)``, caption, and the key of its noise."""

    latents: Tensor
    sizes: Tensor
    conditioning: Conditioning
    key: str


@dataclass(frozen=True, slots=True)
class Validation:
    """The pictures that are not trained on.

    Args:
        pictures: each of them.
        levels: number of noise levels for each, spread evenly over the whole schedule.
        every: steps between two measurements.
    """

    pictures: Sequence[HeldOut]
    levels: int
    every: int

    def is_due(self, step: int, last: int) -> bool:
        """Whether the loss is measured after ``step`` of ``last`` steps."""
        return step % self.every == 0 or step == last

    @torch.no_grad()
    def loss(self, recipe: Recipe, device: torch.device, precision: AbstractContextManager[None]) -> float:
        """Mean over all pictures and noise levels, with the adapter as it is now."""
        with evaluating(recipe.components.values()), precision:
            losses = [self._losses(recipe, picture, device) for picture in self.pictures]
        return torch.stack(losses).double().mean().item()

    def _losses(self, recipe: Recipe, picture: HeldOut, device: torch.device) -> Tensor:
        time = recipe.spread_time(self.levels)
        noises = [
            torch.randn(picture.latents.shape, generator=generator("validation", picture.key, level))
            for level in range(self.levels)
        ]
        latents, sizes = picture.latents.expand(self.levels, -1, -1, -1), picture.sizes.expand(self.levels, -1)
        batch = Batch(latents, torch.stack(noises), sizes=sizes).to(device)
        conditioning = {
            name: tensor.to(device).expand(self.levels, *tensor.shape) for name, tensor in picture.conditioning.items()
        }
        return sample_losses(recipe, batch, time.to(device), conditioning, PLAIN, weighted=False)


def hold_out(
    items: Sequence[Item],
    sets: Sequence[SetSettings],
    settings: ValidationSettings,
    data: DataSettings,
    cache: Cache,
    reporter: Reporter,
) -> tuple[list[Item], list[Item]]:
    """The pictures to train on, and those that are held out.

    A split is a function of the pictures alone, not of the seed, so that runs can be compared. Pictures of
    regularisation sets are trained on, and so are pictures whose content is trained on under another name.

    Raises:
        DataError: if the folder cannot be used, or too few pictures are left.
    """
    if settings.validation_data_dir is not None:
        trained = [one.train_data_dir for one in sets if one.train_data_dir is not None]
        held = find_items(
            list_folder(settings.validation_data_dir, trained),
            caption_column=data.caption_column,
            caption=data.instance_prompt,
            one_a_line=data.enable_wildcards,
        )
        if data.on_bad_image == "skip":
            held, _ = leave_out_unreadable(held, cache, reporter)
        reporter.say(f"{len(held)} pictures in {settings.validation_data_dir} to measure the loss on")
        if known := shared_content(items, held):
            reporter.say(
                f"{len(known)} of these {len(held)} are trained on as well, so the loss on them says little about new "
                f"pictures: {', '.join(sorted(printable(held[number].path.name) for number in known)[:NAMED])}"
            )
        return list(items), held
    if settings.validation_split is None:
        return list(items), []
    numbers = [number for number, item in enumerate(items) if not sets[item.group].is_reg]
    count = max(1, round(settings.validation_split * len(numbers)))
    if count >= len(numbers):
        raise DataError(
            f"validation_split {settings.validation_split:g} of {len(numbers)} pictures leaves none to train on: "
            "add pictures, lower it, or name other pictures with validation_data_dir."
        )
    order = torch.randperm(len(numbers), generator=generator("validation split"))[:count]
    drawn = {numbers[place] for place in order.tolist()}
    rest = [item for number, item in enumerate(items) if number not in drawn]
    known = shared_content(rest, [items[number] for number in sorted(drawn)])
    chosen = {number for place, number in enumerate(sorted(drawn)) if place not in known}
    if not chosen:
        raise DataError("every picture that would be held out is trained on under another name: remove the copies.")
    reporter.say(f"{len(chosen)} of {len(numbers)} pictures are held out to measure the loss on")
    left = [item for number, item in enumerate(items) if number not in chosen]
    return left, [items[number] for number in sorted(chosen)]


def shared_content(trained: Sequence[Item], held: Sequence[Item]) -> set[int]:
    """Numbers of the held-out pictures whose bytes are those of a trained one. Only files of one size are compared."""
    sizes = {_size(item) for item in held}
    known = {digest_of_bytes(item.read()) for item in trained if _size(item) in sizes}
    return {number for number, item in enumerate(held) if digest_of_bytes(item.read()) in known}


def _size(item: Item) -> int:
    try:
        return len(item.read()) if item.stored is not None else item.path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read the picture {item.path}: {error}.") from error


def encode_held_out(
    held: Sequence[Item], recipe: Recipe, dataset: Dataset, framing: Framing, cache: Cache
) -> list[HeldOut]:
    """Encode the middle of pictures that are held out, and their captions.

    Raises:
        DataError: if a picture cannot be read.
    """
    middle = replace(framing, crops=1, flip=False, live=False)
    encoder = PictureEncoder(recipe=recipe, model_key=dataset.identities.pictures, framing=middle, cache=cache)
    pictures: list[HeldOut] = []
    for item in held:
        place = (item, Size(framing.side, framing.side))
        file = encoder.read(place)
        example = encoder.example(place, file)
        text = whole_texts(item, dataset.groups[item.group].edits)[0]
        conditioning = encode_text(text, recipe, dataset.identities.text, cache)
        pictures.append(HeldOut(example.views[0].mean, example.sizes[0].row(), conditioning, file.digest))
    return pictures
