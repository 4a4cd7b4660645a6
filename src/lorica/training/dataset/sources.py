"""The data sets of a run: their pictures, and the settings that the pictures of each have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lorica.data.cache import Cache, digest_of_bytes, key_of
from lorica.data.caption_edits import CaptionEdits
from lorica.data.decoding import load_picture
from lorica.data.groups import Group
from lorica.data.items import Item, find_items
from lorica.data.mixture import Source, draws
from lorica.data.picture_files import find_masks, mask_folders
from lorica.data.tables import find_rows
from lorica.errors import DataError
from lorica.rng import generator
from lorica.training.config.datasets import SetSettings
from lorica.training.config.inputs import DataSettings
from lorica.training.progress import Reporter

# Fields of CaptionEdits, each with the setting that it is.
EDITS = {
    "shuffle": "shuffle_tags",
    "separator": "caption_separator",
    "keep_tags": "keep_tokens",
    "keep_separator": "keep_tokens_separator",
    "dropout": "caption_dropout",
    "tag_dropout": "tag_dropout",
    "trigger": "trigger_word",
    "prefix": "caption_prefix",
    "suffix": "caption_suffix",
    "wildcards": "enable_wildcards",
}
MOST_NAMED = 5  # of the pictures that cannot be read


def collect_items(settings: DataSettings, seed: int, cache_dir: Path | None, reporter: Reporter) -> list[Item]:
    """Pictures and captions of a run, those of one data set after those of another.

    Of a set with more than ``max_train_samples``, the seed draws as many.

    Raises:
        ConfigError: if no folder is named.
        DataError: if a folder cannot be used.
    """
    items: list[Item] = []
    for number, one in enumerate(settings.sets()):
        found = _rows_of(one, cache_dir) if one.dataset_name is not None else _files_of(one, reporter)
        reporter.say(f"{len(found)} pictures in {one.train_data_dir or one.dataset_name}")
        most = one.max_train_samples
        if most is not None and most < len(found):
            purpose = "choice" if number == 0 else f"choice/{number}"
            picked = torch.randperm(len(found), generator=generator(seed, 0, purpose))[:most]
            found = [found[index] for index in sorted(picked.tolist())]
        items += [replace(item, group=number) for item in found]
    _check_class_pictures(settings, items)
    return items


def leave_out_unreadable(items: Sequence[Item], cache: Cache, reporter: Reporter) -> tuple[list[Item], dict[str, str]]:
    """The pictures that can be decoded, and the paths of the others, each with the reason.

    That a picture could be decoded is kept in the cache by its content.

    Raises:
        DataError: if none can be decoded.
    """
    faults = [(item, _fault(item, cache)) for item in items]
    readable = [item for item, fault in faults if fault is None]
    refused = {str(item.path): fault for item, fault in faults if fault is not None}
    if refused and not readable:
        raise DataError(f"none of the {len(items)} pictures can be read; the first: {next(iter(refused.values()))}")
    if refused:
        named = ", ".join(list(refused)[:MOST_NAMED]) + (", ..." if len(refused) > MOST_NAMED else "")
        count = len(items) - len(readable)
        reporter.say(f"{count} of {len(items)} pictures cannot be read and are left out: {named}")
    return readable, refused


def groups_of(settings: DataSettings, items: Sequence[Item]) -> tuple[Group, ...]:
    """The data sets, each with the settings that its pictures share.

    Raises:
        ConfigError: if the data sets do not go together.
        DataError: if one has no pictures.
    """
    groups = tuple(
        Group(
            source=_source(one, sum(item.group == number for item in items)),
            edits=edits_of(one),
            masked=bool(one.masked_loss),
        )
        for number, one in enumerate(settings.sets())
    )
    draws([group.source for group in groups])
    return groups


def edits_of(one: SetSettings) -> CaptionEdits:
    """The edits of the captions of a data set."""
    values = {name: getattr(one, setting) for name, setting in EDITS.items()}
    return CaptionEdits(**{name: value for name, value in values.items() if value is not None})


def shares(groups: Sequence[Group]) -> str:
    """The mixture of the data sets, in words."""
    sources = [group.source for group in groups]
    places = draws(sources)
    lines = [
        f"{source.name}: {source.count} pictures, {place / sum(places):.1%} of the samples"
        + (f", loss times {source.loss_weight:g}" if source.loss_weight != 1 else "")
        for source, place in zip(sources, places, strict=True)
    ]
    return "; ".join(lines)


def _rows_of(one: SetSettings, cache_dir: Path | None) -> list[Item]:
    return find_rows(
        one.dataset_name or "",
        config_name=one.dataset_config_name,
        image_column=one.image_column or "image",
        caption_column=one.caption_column or "text",
        caption=one.instance_prompt,
        cache_dir=cache_dir,
    )


def _files_of(one: SetSettings, reporter: Reporter) -> list[Item]:
    items = find_items(
        one.train_data_dir or Path(),
        caption_column=one.caption_column or "text",
        caption=one.instance_prompt,
        one_a_line=bool(one.enable_wildcards),
    )
    if one.masked_loss:
        masks = find_masks(item.path for item in items)
        return [replace(item, mask=masks.get(item.path)) for item in items]
    if unused := mask_folders(item.path for item in items):
        reporter.say(f"the masks in {unused[0]} are not used; add --masked_loss to use them")
    return items


def _check_class_pictures(settings: DataSettings, items: Sequence[Item]) -> None:
    wanted, last = settings.num_class_images, items[-1].group
    found = sum(item.group == last for item in items)
    if wanted is not None and found < wanted:
        raise DataError(
            f"there are {found} class pictures in {settings.class_data_dir}, num_class_images asks for {wanted}: "
            f"lower it, draw more (lorica generate --prompt {settings.class_prompt!r}), or give class_prompt: "
            "then a run draws the rest itself, though a dry run does not."
        )


def _fault(item: Item, cache: Cache) -> str | None:
    """Why a picture cannot be decoded, or None."""
    try:
        content = item.read()
        key = key_of("readable", digest_of_bytes(content))
        if cache.look_up(key) is None:
            load_picture(content, item.path)
            cache.keep(key, {"readable": torch.ones(1, dtype=torch.uint8)})
    except DataError as error:
        return str(error)
    return None


def _source(one: SetSettings, count: int) -> Source:
    return Source(
        name=one.title,
        count=count,
        repeats=one.repeats,
        weight=one.weight,
        loss_weight=one.loss_weight,
        prior=one.is_reg,
    )
