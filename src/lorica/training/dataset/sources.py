"""The data sets of a run: their settings, their pictures, and what the pictures of each have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lorica.data.cache import Cache, cache_folder
from lorica.data.caption_edits import CaptionEdits
from lorica.data.groups import Group
from lorica.data.items import Item, find_items
from lorica.data.mixture import Source, draws
from lorica.data.picture_files import find_masks, mask_folders
from lorica.data.tables import find_rows
from lorica.errors import ConfigError, DataError
from lorica.training.config.config import RunConfig
from lorica.training.config.datasets import SetSettings
from lorica.training.dataset.sifting import leave_out_bad
from lorica.training.progress import Reporter
from lorica.training.rng import generator

# What CaptionEdits calls a setting, and what the settings do.
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
OF_WHAT_IS_LEARNT = frozenset({"trigger_word", "caption_prefix", "caption_suffix"})  # not for regularisation sets


def sets_of(config: RunConfig) -> list[SetSettings]:
    """Return the settings of every data set: that of the run itself, the named ones, and the class pictures.

    Raises:
        ConfigError: if no pictures are named.
    """
    own = [] if config.train_data_dir is None and config.dataset_name is None else [_own_set(config)]
    sets = [*own, *config.datasets, *([] if config.class_data_dir is None else [_class_set(config)])]
    if not sets:
        raise ConfigError("no pictures are named: give a folder with --train_data_dir, or a --dataset_name.")
    return sets


def collect_items(config: RunConfig, reporter: Reporter) -> list[Item]:
    """Return the pictures and captions of the run, those of one data set after those of another.

    Raises:
        ConfigError: if no folder is named.
        DataError: if a folder cannot be used.
    """
    items: list[Item] = []
    for number, chosen in enumerate(sets_of(config)):
        items += [replace(item, group=number) for item in _items_of(chosen, number, config, reporter)]
    _check_class_pictures(config, items)
    return leave_out_bad(items, Cache(cache_folder()), reporter) if config.on_bad_image == "skip" else items


def groups_of(config: RunConfig, items: Sequence[Item]) -> tuple[Group, ...]:
    """Return what the pictures of each data set have in common.

    Raises:
        ConfigError: if the data sets do not go together.
        DataError: if one has no pictures.
    """
    sets = sets_of(config)
    groups = tuple(
        Group(
            source=_source(chosen, sum(item.group == number for item in items)),
            edits=edits_of(config, chosen),
            masked=bool(_setting("masked_loss", config, chosen)),
        )
        for number, chosen in enumerate(sets)
    )
    draws([group.source for group in groups])
    return groups


def edits_of(config: RunConfig, chosen: SetSettings | None = None) -> CaptionEdits:
    """Return how captions are changed when they are drawn, in one data set or where none says otherwise."""
    values = {name: _setting(setting, config, chosen) for name, setting in EDITS.items()}
    return CaptionEdits(**{name: value for name, value in values.items() if value is not None})


def shares(groups: Sequence[Group]) -> str:
    """Return in words how the data sets are mixed."""
    sources = [group.source for group in groups]
    places = draws(sources)
    lines = [
        f"{source.name}: {source.count} pictures, {place / sum(places):.1%} of the samples"
        + (f", loss times {source.loss_weight:g}" if source.loss_weight != 1 else "")
        for source, place in zip(sources, places, strict=True)
    ]
    return "; ".join(lines)


def _own_set(config: RunConfig) -> SetSettings:
    names = (
        "train_data_dir", "dataset_name", "dataset_config_name", "instance_prompt", "repeats", "max_train_samples",
    )  # fmt: skip
    return SetSettings.model_validate({name: getattr(config, name) for name in names})


def _class_set(config: RunConfig) -> SetSettings:
    return SetSettings.model_validate(
        {
            "name": "class pictures",
            "train_data_dir": config.class_data_dir,
            "instance_prompt": config.class_prompt,
            "is_reg": True,
            "loss_weight": config.prior_loss_weight,
            "max_train_samples": config.num_class_images,
        }
    )


def _items_of(chosen: SetSettings, number: int, config: RunConfig, reporter: Reporter) -> list[Item]:
    items = _rows_of(chosen, config) if chosen.dataset_name is not None else _files_of(chosen, config, reporter)
    reporter.say(f"{len(items)} pictures in {chosen.train_data_dir or chosen.dataset_name}")
    most = chosen.max_train_samples
    if most is None or most >= len(items):
        return items
    purpose = "choice" if number == 0 else f"choice/{number}"
    picked = torch.randperm(len(items), generator=generator(config.seed, 0, purpose))[:most]
    return [items[index] for index in sorted(picked.tolist())]


def _rows_of(chosen: SetSettings, config: RunConfig) -> list[Item]:
    return find_rows(
        chosen.dataset_name or "",
        config_name=chosen.dataset_config_name,
        image_column=chosen.image_column or config.image_column,
        caption_column=chosen.caption_column or config.caption_column,
        caption=chosen.instance_prompt,
        cache_dir=config.cache_dir,
    )


def _files_of(chosen: SetSettings, config: RunConfig, reporter: Reporter) -> list[Item]:
    items = find_items(
        chosen.train_data_dir or Path(),
        caption_column=chosen.caption_column or config.caption_column,
        caption=chosen.instance_prompt,
        one_a_line=bool(_setting("enable_wildcards", config, chosen)),
    )
    if _setting("masked_loss", config, chosen):
        masks = find_masks(item.path for item in items)
        return [replace(item, mask=masks.get(item.path)) for item in items]
    if unused := mask_folders(item.path for item in items):
        reporter.say(f"the masks in {unused[0]} are not used; add --masked_loss to use them")
    return items


def _check_class_pictures(config: RunConfig, items: Sequence[Item]) -> None:
    wanted, last = config.num_class_images, items[-1].group
    found = sum(item.group == last for item in items)
    if wanted is not None and found < wanted:
        raise DataError(
            f"there are {found} class pictures in {config.class_data_dir}, num_class_images asks for {wanted}: "
            f"lower it, draw more (lorica generate --prompt {config.class_prompt!r}), or give class_prompt: "
            "then a run draws the rest itself, though a dry run does not."
        )


def _setting(name: str, config: RunConfig, chosen: SetSettings | None) -> Any:
    """Return a setting of a data set: its own, or that of the run."""
    own = None if chosen is None else getattr(chosen, name)
    if own is not None:
        return own
    return None if chosen is not None and chosen.is_reg and name in OF_WHAT_IS_LEARNT else getattr(config, name)


def _source(chosen: SetSettings, count: int) -> Source:
    return Source(
        name=chosen.title,
        count=count,
        repeats=chosen.repeats,
        weight=chosen.weight,
        loss_weight=chosen.loss_weight,
        prior=chosen.is_reg,
    )
