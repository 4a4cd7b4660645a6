"""Find the pictures of a folder and the caption of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lorica.data.caption_edits import captions_in
from lorica.data.metadata_rows import EXAMPLE, METADATA, captions_of, file_name_of, numbered_lines, parse_row
from lorica.data.picture_files import find_pictures
from lorica.errors import DataError


class Stored(Protocol):
    """A picture that has no file of its own."""

    def read(self) -> bytes:
        """Return its bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """One picture and what it shows.

    Args:
        path: its file, or what messages call it.
        caption: what it shows.
        others: more captions, if there are several to draw from.
        group: the number of its data set among those of the run.
        mask: the file that says where it counts.
        stored: where it is, if it has no file of its own.
    """

    path: Path
    caption: str
    others: tuple[str, ...] = ()
    group: int = 0
    mask: Path | None = None
    stored: Stored | None = field(default=None, compare=False)

    @property
    def captions(self) -> tuple[str, ...]:
        """Every caption of the picture."""
        return (self.caption, *self.others)

    def read(self) -> bytes:
        """Return the bytes of the picture.

        Raises:
            DataError: if they cannot be read.
        """
        if self.stored is not None:
            return self.stored.read()
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the picture {self.path}: {error}.") from error


def find_items(
    folder: Path, *, caption_column: str = "text", caption: str | None = None, one_a_line: bool = False
) -> list[Item]:
    """Return the pictures of a folder, subfolders included, each with its caption.

    Captions come from ``caption`` if it is given (one for all), else from ``metadata.jsonl``, whose lines hold
    ``file_name`` and ``caption_column`` (a text, or a list of them), else from a ``.txt`` file beside each picture,
    which holds one caption, or with ``one_a_line`` one on each line.

    Raises:
        DataError: if there is no folder, no picture or no caption, or if ``metadata.jsonl`` is wrong somewhere.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; name a folder of pictures.")
    pictures = find_pictures(folder)
    if caption is not None:
        return [Item(path, caption) for path in pictures]
    if (folder / METADATA).is_file():
        return _from_metadata(folder, pictures, caption_column)
    return _from_text_files(folder, pictures, one_a_line=one_a_line)


def _from_text_files(folder: Path, pictures: list[Path], *, one_a_line: bool) -> list[Item]:
    missing = [path for path in pictures if not path.with_suffix(".txt").is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(pictures)} pictures in {folder} have no caption: {_some(missing, folder)}. "
            f"Write {METADATA} (lines such as {EXAMPLE}), or a .txt file beside each picture, "
            "or give one caption for all with --instance_prompt."
        )
    return [_with_captions(path, _read_captions(path.with_suffix(".txt"), one_a_line=one_a_line)) for path in pictures]


def _read_captions(path: Path, *, one_a_line: bool) -> tuple[str, ...]:
    """Return the captions in a text file: those on its lines, or one whose line ends count as spaces."""
    text = _read_text(path)
    return (captions_in(text) if one_a_line else ()) or (" ".join(text.split()),)


def _with_captions(path: Path, captions: Sequence[str]) -> Item:
    return Item(path, captions[0], tuple(captions[1:]))


def _from_metadata(folder: Path, pictures: list[Path], column: str) -> list[Item]:
    source = folder / METADATA
    rows = numbered_lines(_read_text(source))
    items = [_item(folder, f"{source}, line {number}", line, column) for number, line in rows]
    named = {item.path for item in items}
    missing = [path for path in pictures if path not in named]
    if missing:
        raise DataError(
            f"{source} says nothing about {len(missing)} of {len(pictures)} pictures: {_some(missing, folder)}. "
            "Add a line for each, or move them out of the folder."
        )
    return items


def _item(folder: Path, where: str, line: str, column: str) -> Item:
    try:
        row = parse_row(line)
        path, captions = folder / file_name_of(row), captions_of(row, column)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    if not path.is_file():
        raise DataError(f"{where}: there is no file {path}.")
    return _with_captions(path, captions)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}.") from error


def _some(paths: list[Path], folder: Path) -> str:
    names = ", ".join(str(path.relative_to(folder)) for path in paths[:3])
    return names + (", ..." if len(paths) > 3 else "")
