"""The pictures of a folder, each with its caption."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

from lorica.data.captions import FolderCaptions, read_captions
from lorica.data.metadata import EXAMPLE, METADATA, TABLES
from lorica.data.picture_files import FolderListing, list_folder, pictures_of
from lorica.errors import DataError
from lorica.printing import printable

REPEATS = re.compile(r"(?P<count>\d{1,3})_(?P<name>.+)")  # folders of Kohya's scripts: 10_sks dog
NAMED = 3  # pictures that a message names


class Readable(Protocol):
    """Source of a picture that has no file of its own."""

    def read(self) -> bytes:
        """Bytes of the picture."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """One picture and its captions.

    Args:
        path: its file, or its name in messages.
        caption: the caption.
        others: more captions, if there are several to draw from.
        group: the number of its data set among those of the run.
        mask: the file of its mask.
        stored: its source, if it has no file of its own.
    """

    path: Path
    caption: str
    others: tuple[str, ...] = ()
    group: int = 0
    mask: Path | None = None
    stored: Readable | None = field(default=None, compare=False)

    @property
    def captions(self) -> tuple[str, ...]:
        """Every caption of the picture."""
        return (self.caption, *self.others)

    def read(self) -> bytes:
        """Bytes of the picture.

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
    folder: Path | FolderListing, *, caption_column: str = "text", caption: str | None = None, one_a_line: bool = False
) -> list[Item]:
    """Pictures of a folder, subfolders included, each with its caption.

    Captions come from ``caption`` if it is given (one for all), else from a table such as ``metadata.jsonl``, whose
    lines hold ``file_name`` and ``caption_column`` (a text, or a list of them), else from a text file beside each
    picture, which holds one caption, or with ``one_a_line`` one on each line.

    Raises:
        DataError: if there is no folder, no picture or no caption, or if ``metadata.jsonl`` is wrong somewhere.
    """
    listing = folder if isinstance(folder, FolderListing) else list_folder(folder)
    pictures = pictures_of(listing)
    if caption is not None:
        return [Item(path, caption) for path in pictures]
    found = read_captions(listing.folder, pictures, column=caption_column, one_a_line=one_a_line)
    if found.findings:
        _refuse(found, listing.folder, len(pictures))
    return [Item(path, first, tuple(others)) for path, (first, *others) in found.rows]


def _refuse(found: FolderCaptions, folder: Path, pictures: int) -> NoReturn:
    """Raise the first fault, or one error for all missing captions."""
    table = folder / found.source
    missing = [finding.name for finding in found.findings if finding.problem == "caption_missing"]
    first = found.findings[0]
    match first.problem:
        case "metadata_line":
            message = f"{table}, {first.detail}"
        case "metadata_without_file":
            message = f"{folder / first.detail}: there is no file {folder / first.name}."
        case "caption_unreadable" if not missing:
            message = f"the caption file {folder / first.name} cannot be used: {first.detail}."
        case _ if found.source in TABLES:
            message = (
                f"{table} says nothing about {len(missing)} of {pictures} pictures: {_some(missing)}. "
                "Add a line for each, or move them out of the folder."
            )
        case _:
            message = (
                f"{len(missing)} of {pictures} pictures in {folder} have no caption: {_some(missing)}. "
                f"Write {METADATA} (lines such as {EXAMPLE}), or a .txt file beside each picture, "
                f"or give one caption for all with --instance_prompt.{_elsewhere(folder, first.name)}"
            )
    raise DataError(message)


def _elsewhere(folder: Path, picture: str) -> str:
    """Where captions seem to be, and the option that uses them."""
    for table in sorted(path for name in TABLES for path in folder.glob(f"*/{name}")):
        where = shlex.quote(printable(table.parent))
        return f" There is {printable(table)}: train with --train_data_dir {where}."
    if match := REPEATS.match(Path(picture).parts[0]):
        return f" The folder's name says --instance_prompt {shlex.quote(match['name'])}."
    return ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
