"""Survey of a folder of pictures before training: its content, and everything that is wrong with it at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lorica.data.cache import digest_of_bytes
from lorica.data.caption_length import CaptionMeasure, by_words
from lorica.data.caption_words import repeated_trigger, shared_words
from lorica.data.captions import FolderCaptions, name_in, read_captions, text_files_without_picture
from lorica.data.decoding import load_picture, picture_size
from lorica.data.findings import Finding, by_problem
from lorica.data.likeness import MOST_EDGES, ROWS, Fingerprint, fingerprint, groups_alike
from lorica.data.metadata import TABLES
from lorica.data.picture_files import list_folder, pictures_of
from lorica.errors import ConfigError, DataError

Progress = Callable[[str, int], AbstractContextManager[Callable[[], object]]]  # title and number to what counts one
ENOUGH = 256  # pixels a side at which a JPEG is looked at; decoding it at a part of its size is faster


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits beyond which something is a problem.

    Args:
        resolution: the side in pixels that the pictures will be trained at.
        aspect: the longer side over the shorter.
        edges: bits, of 144, in which the edges of two pictures that look alike may differ.
        measure: measure and limit of the length of captions.

    Raises:
        ConfigError: for a limit that no picture can meet.
    """

    resolution: int = 512
    aspect: float = 3.0
    edges: int = MOST_EDGES
    measure: CaptionMeasure = field(default_factory=by_words)

    def __post_init__(self) -> None:
        for name, value, least in (("resolution", self.resolution, 1), ("edges", self.edges, 0)):
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}.")
        if not self.aspect >= 1:
            raise ConfigError(f"aspect is the longer side over the shorter, so at least 1; got {self.aspect}.")


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture that can be read. ``size`` is (width, height), upright; ``name`` is relative to the folder."""

    path: Path
    name: str
    size: tuple[int, int]
    captions: tuple[str, ...]
    digest: str
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Content and faults of a folder.

    Args:
        folder: the folder.
        found: number of picture files.
        pictures: those that can be read.
        captions: captions of each picture file that has any.
        captions_from: where they come from, for people.
        findings: the faults.
        limits: the limits that were applied.
        remarks: what of the folder is not looked at, a line each.
    """

    folder: Path
    found: int
    pictures: tuple[Picture, ...]
    captions: Mapping[Path, tuple[str, ...]]
    captions_from: str
    findings: tuple[Finding, ...]
    limits: Limits
    remarks: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether there is anything to train on: one picture that can be read."""
        return bool(self.pictures)

    @property
    def ready(self) -> bool:
        """Whether training would start with the folder as it is."""
        return self.usable and not any(finding.severity == "stops" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Counts and findings as plain dictionaries and lists, for JSON."""
        return {
            "folder": str(self.folder),
            "usable": self.usable,
            "ready": self.ready,
            "pictures": self.found,
            "readable": len(self.pictures),
            "captioned": len(self.captions),
            "captions_from": self.captions_from,
            "resolution": self.limits.resolution,
            "captions_counted_in": self.limits.measure.unit,
            "problems": {problem.name: len(findings) for problem, findings in by_problem(self.findings).items()},
            "remarks": list(self.remarks),
            "findings": [finding.as_dict() for finding in self.findings],
        }


def examine_folder(
    folder: Path,
    limits: Limits,
    *,
    caption_column: str = "text",
    caption: str | None = None,
    only_text_files: bool = False,
    trigger: str | None = None,
    progress: Progress | None = None,
) -> Survey:
    """Survey of a folder, subfolders included: every picture and caption is read, every fault is found.

    Args:
        folder: the folder of pictures.
        limits: limits beyond which something is a problem.
        caption_column: the field of ``metadata.jsonl`` with the caption.
        caption: one caption for all; then others are not read.
        only_text_files: read the captions from text files even where there is a ``metadata.jsonl``.
        trigger: the trigger word that the run will add, if there is one.
        progress: called with a title and a number of steps, for a context whose function is called after each.

    Raises:
        DataError: if there is no folder, no picture in it, or ``metadata.jsonl`` is not text.
    """
    listing = list_folder(folder)
    files = pictures_of(listing)
    if caption is not None:
        found = FolderCaptions("--instance_prompt", [(path, (caption,)) for path in files])
    else:
        found = read_captions(folder, files, column=caption_column, only_text=only_text_files)
        if found.source not in TABLES:
            found.findings.extend(text_files_without_picture(folder, files))
    captions = found.by_picture()
    files = list(dict.fromkeys([*files, *captions]))  # metadata.jsonl may name files of any ending
    progress = progress or _silent
    with progress("reading pictures", len(files)) as advance:
        read = list(_read_all(folder, files, captions, advance))
    pictures = tuple(result for result in read if isinstance(result, Picture))
    unreadable = [result for result in read if isinstance(result, Finding)]
    return Survey(
        folder=folder,
        found=len(files),
        pictures=pictures,
        captions=captions,
        captions_from=found.source,
        findings=(
            *unreadable,
            *found.findings,
            *_check_captions(folder, captions, limits.measure),
            *(_check_trigger(folder, captions, trigger) if trigger else ()),
            *_check_pictures(pictures, limits, progress),
        ),
        limits=limits,
        remarks=tuple(listing.remarks()),
    )


def _silent(title: str, number: int) -> AbstractContextManager[Callable[[], object]]:
    del title, number
    return nullcontext(lambda: None)


def _read_all(
    folder: Path, files: Sequence[Path], captions: Mapping[Path, tuple[str, ...]], advance: Callable[[], object]
) -> Iterator[Picture | Finding]:
    """Read pictures on all cores: Pillow decodes outside of Python's lock."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for result in pool.map(partial(_read, folder), files, [captions.get(path, ()) for path in files]):
            advance()
            yield result
    finally:
        pool.shutdown(cancel_futures=True)  # at once after an interrupt


def _read(folder: Path, path: Path, captions: tuple[str, ...]) -> Picture | Finding:
    name = name_in(folder, path)
    try:
        content = path.read_bytes()
        size = picture_size(content, path)
        picture = load_picture(content, path, at_least=ENOUGH)
    except DataError as error:
        return Finding("unreadable", name, str(error).removeprefix(f"{path} "))
    except OSError as error:
        return Finding("unreadable", name, str(error))
    return Picture(path, name, size, captions, digest_of_bytes(content), fingerprint(picture))


def _check_captions(
    folder: Path, captions: Mapping[Path, tuple[str, ...]], measure: CaptionMeasure
) -> Iterator[Finding]:
    for path, several in captions.items():
        name, longest = name_in(folder, path), max(map(measure.count, several))
        if not all(caption.strip() for caption in several):
            yield Finding("caption_empty", name, "the caption is empty")
        if longest > measure.most:
            yield Finding("caption_too_long", name, f"{longest} {measure.unit}, at most {measure.most}")


def _check_trigger(folder: Path, captions: Mapping[Path, tuple[str, ...]], trigger: str) -> Iterator[Finding]:
    shared = shared_words((several[0] for several in captions.values()), trigger)
    if shared:
        said = ", ".join(f"{word} ({count} of {len(captions)})" for word, count in shared)
        yield Finding("repeats_trigger", "captions", said)
    for path, times in repeated_trigger(captions, trigger):
        yield Finding("repeats_trigger", name_in(folder, path), f"the caption says {trigger} {times} times")


def _check_pictures(pictures: tuple[Picture, ...], limits: Limits, progress: Progress) -> Iterator[Finding]:
    yield from _same_files(pictures)
    yield from _lookalikes(pictures, limits.edges, progress)
    for picture in pictures:
        shorter, longer = sorted(picture.size)
        size = f"{picture.size[0]} x {picture.size[1]}"
        if shorter < limits.resolution:
            yield Finding("tiny", picture.name, f"{size}, for training at {limits.resolution}")
        if longer > limits.aspect * shorter:
            yield Finding("extreme_aspect", picture.name, f"{size}, {longer / shorter:.1f} to 1")


def _same_files(pictures: Iterable[Picture]) -> Iterator[Finding]:
    by_digest: dict[str, list[str]] = {}
    for picture in pictures:
        by_digest.setdefault(picture.digest, []).append(picture.name)
    for first, *others in by_digest.values():
        if others:
            yield Finding("exact_duplicate", first, f"{len(others) + 1} files of the same bytes", tuple(others))


def _lookalikes(pictures: Iterable[Picture], most_edges: int, progress: Progress) -> Iterator[Finding]:
    """Groups of pictures that look alike; of identical files only the first takes part."""
    different = list({picture.digest: picture for picture in reversed(list(pictures))}.values())[::-1]
    with progress("comparing pictures", -(-len(different) // ROWS)) as advance:
        groups = groups_alike([picture.fingerprint for picture in different], most_edges, advance)
    for group in groups:
        first, *others = (different[index].name for index in group)
        yield Finding("near_duplicate", first, f"{len(group)} pictures that look alike", tuple(others))
