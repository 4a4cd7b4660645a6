"""Pictures of a folder to learn from, and the masks beside them; what lies there for another purpose is left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lorica.data.decoding import EXTRA, EXTRA_SUFFIXES, suffixes
from lorica.errors import DataError
from lorica.printing import printable
from lorica.run_files import CHECKPOINT, PLOT, PREVIEWS, is_output_folder

MASK_FOLDER = "mask"
TEXTS = frozenset({".txt", ".caption", ".json", ".jsonl", ".csv", ".toml"})  # captions, tables and run files
OWN_FILES = frozenset({"report.html", PLOT})
OWN_FOLDERS = (PREVIEWS, CHECKPOINT)  # beginnings of names, inside an output folder


@dataclass(frozen=True, slots=True)
class FolderListing:
    """Content of a picture folder, subfolders and linked folders included.

    Args:
        folder: the folder.
        pictures: its pictures, in order.
        unread: number of other files by their ending; captions, tables, masks and hidden files do not count.
        left_out: outputs of Lorica, and folders that the run names for another purpose.
    """

    folder: Path
    pictures: tuple[Path, ...]
    unread: Mapping[str, int]
    left_out: tuple[Path, ...]

    def remarks(self) -> Iterator[str]:
        """What of the folder is not trained on, a line each."""
        if self.left_out:
            names = ", ".join(printable(path.relative_to(self.folder).as_posix()) for path in self.left_out)
            yield f"left out of {printable(self.folder)}, as outputs of Lorica or folders for other uses: {names}"
        if self.unread:
            yield unread_files(self.unread)


@dataclass(slots=True)
class _Walk:
    """Visible files below a folder, each real folder once, links after all real folders."""

    others: frozenset[str]
    files: list[Path] = field(default_factory=list[Path])
    left_out: list[Path] = field(default_factory=list[Path])
    _folders: list[Path] = field(default_factory=list[Path])
    _links: list[Path] = field(default_factory=list[Path])

    def run(self, folder: Path) -> None:
        """Walk a folder."""
        seen = set[str]()
        self._folders.append(folder)
        while self._folders or self._links:
            here = self._folders.pop() if self._folders else self._links.pop(0)
            if (real := os.path.realpath(here)) not in seen:  # a link to a folder above would be walked for ever
                seen.add(real)
                self._enter(here)

    def _enter(self, folder: Path) -> None:
        try:
            entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            raise DataError(f"cannot read the folder {printable(folder)}: {error.strerror}.") from error
        is_output = is_output_folder(folder)
        for path in entries:
            if os.path.isdir(path):  # noqa: PTH112  # pathlib raises for names that are too long
                self._choose(path, is_output)
            elif os.path.isfile(path):  # noqa: PTH113
                (self.left_out if is_output and path.name in OWN_FILES else self.files).append(path)

    def _choose(self, folder: Path, in_output: bool) -> None:
        own = in_output and folder.name.startswith(OWN_FOLDERS)
        if own or os.path.realpath(folder) in self.others or is_output_folder(folder):
            self.left_out.append(folder)
        else:
            (self._links if folder.is_symlink() else self._folders).append(folder)


def list_folder(folder: Path, others: Iterable[Path] = ()) -> FolderListing:
    """Pictures of a folder, and what else lies there.

    Args:
        folder: the folder.
        others: folders with another purpose; those that lie inside are left out.

    Raises:
        DataError: if there is no folder, or one below it cannot be read.
    """
    if not os.path.isdir(folder):  # noqa: PTH112
        raise DataError(f"there is no folder {printable(folder)}; name a folder of pictures.")
    own = os.path.realpath(folder)
    walk = _Walk(frozenset(os.path.realpath(path) for path in others) - {own})
    walk.run(folder)
    pictures = sorted(path for path in walk.files if is_picture(path) and not is_mask(path, folder))
    rest = (path for path in walk.files if not is_picture(path) and not is_mask(path, folder))
    unread = Counter(path.suffix.lower() for path in rest if path.name not in OWN_FILES)
    counted = {ending: count for ending, count in sorted(unread.items()) if ending not in TEXTS}
    return FolderListing(folder, tuple(pictures), counted, tuple(sorted(walk.left_out)))


def find_pictures(folder: Path, others: Iterable[Path] = ()) -> list[Path]:
    """Pictures of a folder, subfolders included, in order; hidden ones, masks and outputs of Lorica do not count.

    Raises:
        DataError: if there is no folder, or no picture in it.
    """
    return pictures_of(list_folder(folder, others))


def pictures_of(listing: FolderListing) -> list[Path]:
    """Pictures of a listing.

    Raises:
        DataError: if there is none.
    """
    if not listing.pictures:
        remarks = " ".join(f"{line[0].upper()}{line[1:]}." for line in listing.remarks())
        known = "such as .png, .jpg, .webp, .tif or .avif"
        raise DataError(
            f"there is no picture in {printable(listing.folder)}; expected files {known}. {remarks}".rstrip()
        )
    return list(listing.pictures)


def unread_files(counts: Mapping[str, int]) -> str:
    """Number of files that are not read, by ending, and how more of them would be."""
    total = sum(counts.values())
    named = ", ".join(f"{count} {printable(ending) or 'without an ending'}" for ending, count in counts.items())
    verb = "file is" if total == 1 else "files are"
    extra = [ending for ending in counts if ending in EXTRA_SUFFIXES]
    hint = f" (pip install 'lorica[{EXTRA}]' reads {' and '.join(extra)})" if extra else ""
    return f"{total} {verb} not read: {named}{hint}"


def count_pictures(folder: Path) -> int:
    """Number of pictures that :func:`find_pictures` returns; 0 if there is no such folder."""
    return len(list_folder(folder).pictures) if os.path.isdir(folder) else 0  # noqa: PTH112


def is_picture(path: Path) -> bool:
    """Whether a file has the ending of a picture that can be read."""
    return path.suffix.lower() in suffixes()


def is_visible(path: Path, folder: Path) -> bool:
    """Whether neither a file nor a folder that it lies in, below ``folder``, is hidden by a leading dot."""
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def is_mask(path: Path, folder: Path) -> bool:
    """Whether a file below ``folder`` lies in a folder of masks, and so is no picture to learn from."""
    return MASK_FOLDER in path.relative_to(folder).parts[:-1]


def find_masks(pictures: Iterable[Path], folder: Path | None = None) -> dict[Path, Path]:
    """Mask of each picture that has one: the file of its name, with any ending.

    It lies in ``mask/`` beside the picture, or in a tree ``mask/`` of the same subfolders in ``folder``.

    Raises:
        DataError: if a picture has two.
    """
    listed: dict[Path, dict[str, Path]] = {}
    found: dict[Path, Path] = {}
    for picture in pictures:
        places = dict.fromkeys(_mask_places(picture, folder))
        for place in places:
            if place not in listed:
                listed[place] = _by_stem(place)
        masks = [listed[place][picture.stem] for place in places if picture.stem in listed[place]]
        if len(masks) > 1:
            raise DataError(f"there are two masks of one picture, {masks[0]} and {masks[1]}; remove one of them.")
        if masks:
            found[picture] = masks[0]
    return found


def mask_folders(pictures: Iterable[Path], folder: Path | None = None) -> list[Path]:
    """Folders of masks of pictures: beside them, or in the tree of ``folder``."""
    folders = dict.fromkeys(place for picture in pictures for place in _mask_places(picture, folder))
    return [place for place in folders if place.is_dir()]


def _mask_places(picture: Path, folder: Path | None) -> Iterator[Path]:
    yield picture.parent / MASK_FOLDER
    if folder is not None and picture.is_relative_to(folder):
        yield folder / MASK_FOLDER / picture.parent.relative_to(folder)


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not is_picture(path):
            continue
        if path.stem in found:
            raise DataError(f"there are two masks of one picture, {found[path.stem]} and {path}; remove one of them.")
        found[path.stem] = path
    return found
