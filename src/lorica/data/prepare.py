"""Look a folder of pictures over before training: what it holds, and everything that is wrong with it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lorica.data.cache import digest_of_bytes
from lorica.data.caption_length import CaptionMeasure, by_words
from lorica.data.captions_found import (
    FoundCaptions,
    captions_of_metadata,
    captions_of_text_files,
    name_in,
    text_files_without_picture,
)
from lorica.data.findings import Finding
from lorica.data.images import load_picture
from lorica.data.items import find_items
from lorica.data.likeness import MOST_EDGES, Fingerprint, fingerprint, groups_alike
from lorica.data.metadata_rows import METADATA
from lorica.errors import ConfigError, DataError

Progress = Callable[[int], Callable[[], None]]  # how many pictures there are, to what counts one


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """From where on something is a problem.

    Args:
        resolution: the side in pixels that the pictures will be trained at.
        aspect: the longer side over the shorter.
        edges: how much of their edges two pictures that look alike may differ in, in bits of 144.
        measure: how captions are measured, and how long they may be.

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
    """What a folder holds.

    Args:
        folder: the folder.
        found: how many picture files there are.
        pictures: those that can be read.
        captions: of each picture file that has any.
        captions_from: where they come from, for people.
        findings: what is wrong.
        limits: what was asked.
    """

    folder: Path
    found: int
    pictures: tuple[Picture, ...]
    captions: Mapping[Path, tuple[str, ...]]
    captions_from: str
    findings: tuple[Finding, ...]
    limits: Limits

    @property
    def usable(self) -> bool:
        """Whether there is anything to train on: one picture that can be read."""
        return bool(self.pictures)

    @property
    def ready(self) -> bool:
        """Whether training would start with the folder as it is."""
        return self.usable and not any(finding.severity == "stops" for finding in self.findings)


def examine_folder(
    folder: Path,
    limits: Limits,
    *,
    caption_column: str = "text",
    caption: str | None = None,
    only_text_files: bool = False,
    progress: Progress | None = None,
) -> Survey:
    """Read every picture and caption of a folder, subfolders included, and say everything that is wrong.

    Args:
        folder: the folder of pictures.
        limits: from where on something is a problem.
        caption_column: the field of ``metadata.jsonl`` that holds the caption.
        caption: one caption for all; then others are not read.
        only_text_files: read the captions from text files even where there is a ``metadata.jsonl``.
        progress: is told how many pictures there are, and returns what is called after each.

    Raises:
        DataError: if there is no folder, no picture in it, or ``metadata.jsonl`` is not text.
    """
    files = [item.path for item in find_items(folder, caption="")]
    if caption is not None:
        found = FoundCaptions("--instance_prompt", dict.fromkeys(files, (caption,)))
    elif only_text_files or not (folder / METADATA).is_file():
        found = captions_of_text_files(folder, files)
        found.findings.extend(text_files_without_picture(folder, files))
    else:
        found = captions_of_metadata(folder, files, caption_column)
    files = list(dict.fromkeys([*files, *found.captions]))  # metadata.jsonl may name files of any ending
    advance = progress(len(files)) if progress else lambda: None
    read = [_read(folder, path, found.captions.get(path, ()), advance) for path in files]
    pictures = tuple(result for result in read if isinstance(result, Picture))
    unreadable = [result for result in read if isinstance(result, Finding)]
    return Survey(
        folder=folder,
        found=len(files),
        pictures=pictures,
        captions=found.captions,
        captions_from=found.source,
        findings=(*unreadable, *found.findings, *_about_captions(folder, found, limits), *_about(pictures, limits)),
        limits=limits,
    )


def _read(folder: Path, path: Path, captions: tuple[str, ...], advance: Callable[[], None]) -> Picture | Finding:
    name = name_in(folder, path)
    try:
        content = path.read_bytes()
        picture = load_picture(content, path)
    except DataError as error:
        return Finding("unreadable", name, str(error).removeprefix(f"{path} "))
    except OSError as error:
        return Finding("unreadable", name, str(error))
    finally:
        advance()
    return Picture(path, name, picture.size, captions, digest_of_bytes(content), fingerprint(picture))


def _about_captions(folder: Path, found: FoundCaptions, limits: Limits) -> Iterator[Finding]:
    measure = limits.measure
    for path, captions in found.captions.items():
        if not all(caption.strip() for caption in captions):
            yield Finding("caption_empty", name_in(folder, path), "the caption is empty")
        longest = max(map(measure.count, captions))
        if longest > measure.most:
            yield Finding(
                "caption_too_long", name_in(folder, path), f"{longest} {measure.unit}, at most {measure.most}"
            )


def _about(pictures: tuple[Picture, ...], limits: Limits) -> Iterator[Finding]:
    yield from _same_files(pictures)
    yield from _lookalikes(pictures, limits.edges)
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


def _lookalikes(pictures: Iterable[Picture], most_edges: int) -> Iterator[Finding]:
    """Yield the groups that look alike; of files of the same bytes only the first takes part."""
    different = list({picture.digest: picture for picture in reversed(list(pictures))}.values())[::-1]
    for group in groups_alike([picture.fingerprint for picture in different], most_edges):
        first, *others = (different[index].name for index in group)
        yield Finding("near_duplicate", first, f"{len(group)} pictures that look alike", tuple(others))
