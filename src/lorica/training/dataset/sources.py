"""The data sets of a run: their pictures, and the settings that the pictures of each have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from lorica.data.cache import Cache, digest_of_bytes, key_of
from lorica.data.caption_edits import CaptionEdits
from lorica.data.decoding import load_picture
from lorica.data.groups import Group
from lorica.data.items import REPEATS, Item, find_items
from lorica.data.mixture import Source, draws
from lorica.data.picture_files import find_masks, list_folder, mask_folders
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


class Collected(NamedTuple):
    """Pictures of a run, one data set after the other, and the data sets, which ``Item.group`` counts."""

    items: list[Item]
    sets: list[SetSettings]


def collect_items(
    settings: DataSettings, seed: int, cache_dir: Path | None, reporter: Reporter, others: Iterable[Path | None] = ()
) -> Collected:
    """Pictures and captions of a run.

    Of a set with more than ``max_train_samples``, the seed draws as many. Folders of Kohya's scripts such as ``10_cat``
    become data sets of their own, with their repeats.

    Args:
        settings: the data sets.
        seed: see above.
        cache_dir: where data sets from the Hub are kept.
        reporter: told what is found, and what is left out.
        others: folders of the run that are not trained on; where they lie inside a data set, they are left out.

    Raises:
        ConfigError: if no folder is named.
        DataError: if a folder cannot be used.
    """
    items, sets, wanted = list[Item](), list[SetSettings](), settings.sets()
    apart = [path for path in (*others, *(one.train_data_dir for one in wanted)) if path is not None]
    for number, one in enumerate(wanted):
        found = _rows_of(one, cache_dir) if one.dataset_name is not None else _files_of(one, apart, reporter)
        reporter.say(f"{len(found)} pictures in {one.train_data_dir or one.dataset_name}")
        most = one.max_train_samples
        if most is not None and most < len(found):
            purpose = "choice" if number == 0 else f"choice/{number}"
            picked = torch.randperm(len(found), generator=generator(seed, 0, purpose))[:most]
            found = [found[index] for index in sorted(picked.tolist())]
        for part, members in _by_repeats(one, found, reporter):
            items += [replace(item, group=len(sets)) for item in members]
            sets.append(part)
    _check_class_pictures(settings, items)
    return Collected(items, sets)


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


def groups_of(sets: Sequence[SetSettings], items: Sequence[Item]) -> tuple[Group, ...]:
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
        for number, one in enumerate(sets)
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


def _files_of(one: SetSettings, others: Iterable[Path], reporter: Reporter) -> list[Item]:
    listing = list_folder(one.train_data_dir or Path(), others)
    items = find_items(
        listing,
        caption_column=one.caption_column or "text",
        caption=one.instance_prompt,
        one_a_line=bool(one.enable_wildcards),
    )
    for line in listing.remarks():
        reporter.say(line)
    if one.masked_loss:
        masks = find_masks((item.path for item in items), listing.folder)
        return [replace(item, mask=masks.get(item.path)) for item in items]
    if unused := mask_folders((item.path for item in items), listing.folder):
        reporter.say(f"the masks in {unused[0]} are not used; add --masked_loss to use them")
    return items


def _by_repeats(
    one: SetSettings, items: Sequence[Item], reporter: Reporter
) -> Iterator[tuple[SetSettings, Sequence[Item]]]:
    """A data set as it is, or cut into the folders of it whose names say how often an epoch sees their pictures."""
    parts: dict[str, list[Item]] = {}
    for item in items:
        parts.setdefault(_repeating_folder(one, item.path), []).append(item)
    counts = {name: int(match["count"]) for name in parts if (match := REPEATS.fullmatch(name))}
    if not any(count > 1 for count in counts.values()):
        yield one, items
        return
    if one.is_reg or one.weight is not None:
        why = "a regularisation set has its own share" if one.is_reg else "the data set has a weight"
        reporter.say(f"the repeats in the names of folders ({', '.join(counts)}) do not count: {why}")
        yield one, items
        return
    said = ", ".join(f"{name} {count} times" for name, count in counts.items())
    reporter.say(f"an epoch sees the pictures of {said}, as the names of the folders say; rename them to change that")
    for name, members in parts.items():
        repeats = one.repeats * max(1, counts.get(name, 1))
        title = f"{one.title}/{name}" if len(parts) > 1 and name else one.title
        yield one.model_copy(update={"repeats": repeats, "name": title}), members


def _repeating_folder(one: SetSettings, path: Path) -> str:
    """Name of the folder that says a picture's repeats: the first below the data set's, or that itself."""
    if one.train_data_dir is None or not path.is_relative_to(one.train_data_dir):
        return ""
    first, *below = path.relative_to(one.train_data_dir).parts
    own = one.train_data_dir.resolve().name
    named = first if below and REPEATS.fullmatch(first) else own if one.repeats == 1 else ""
    return named if REPEATS.fullmatch(named) else ""


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
