"""Pictures of a folder to learn from, and the masks beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from lorica.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
MASK_FOLDER = "mask"


def find_pictures(folder: Path) -> list[Path]:
    """Pictures of a folder, subfolders included, in order; hidden ones and masks do not count.

    Raises:
        DataError: if there is no folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; name a folder of pictures.")
    found = sorted(_pictures_in(folder))
    if not found:
        raise DataError(f"there is no picture in {folder}; expected files ending in {', '.join(sorted(SUFFIXES))}.")
    return found


def count_pictures(folder: Path) -> int:
    """Number of pictures that :func:`find_pictures` returns; 0 if there is no such folder."""
    return sum(1 for _ in _pictures_in(folder))


def is_visible(path: Path, folder: Path) -> bool:
    """Whether neither a file nor a folder that it lies in, below ``folder``, is hidden by a leading dot."""
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def is_mask(path: Path, folder: Path) -> bool:
    """Whether a file below ``folder`` lies in a folder of masks, and so is no picture to learn from."""
    return MASK_FOLDER in path.relative_to(folder).parts[:-1]


def find_masks(pictures: Iterable[Path]) -> dict[Path, Path]:
    """Mask of each picture that has one: the file of its name in ``mask/`` beside it, with any suffix.

    Raises:
        DataError: if a picture has two.
    """
    folders: dict[Path, dict[str, Path]] = {}
    found: dict[Path, Path] = {}
    for picture in pictures:
        folder = picture.parent / MASK_FOLDER
        if folder not in folders:
            folders[folder] = _by_stem(folder)
        if picture.stem in folders[folder]:
            found[picture] = folders[folder][picture.stem]
    return found


def mask_folders(pictures: Iterable[Path]) -> list[Path]:
    """Folders of masks that lie beside pictures."""
    folders = dict.fromkeys(picture.parent / MASK_FOLDER for picture in pictures)
    return [folder for folder in folders if folder.is_dir()]


def _pictures_in(folder: Path) -> Iterator[Path]:
    named = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return (path for path in named if is_visible(path, folder) and not is_mask(path, folder))


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() not in SUFFIXES:
            continue
        if path.stem in found:
            raise DataError(f"there are two masks of one picture, {found[path.stem]} and {path}; remove one of them.")
        found[path.stem] = path
    return found
