"""Every caption of a folder and everything that is wrong with them, where ``find_items`` stops at the first fault."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lorica.data.findings import Finding
from lorica.data.metadata_rows import METADATA, captions_of, file_name_of, numbered_lines, parse_row
from lorica.data.picture_files import SUFFIXES, is_visible
from lorica.errors import DataError

SIDECAR = ".txt"


@dataclass(slots=True)
class FoundCaptions:
    """The captions of each picture that has any, what is wrong, and where they come from."""

    source: str
    captions: dict[Path, tuple[str, ...]] = field(default_factory=dict[Path, tuple[str, ...]])
    findings: list[Finding] = field(default_factory=list[Finding])


def captions_of_text_files(folder: Path, pictures: Iterable[Path]) -> FoundCaptions:
    """Return the caption in the ``.txt`` file beside each picture; one caption, its line ends counting as spaces."""
    found = FoundCaptions("text files")
    for path in pictures:
        sidecar = path.with_suffix(SIDECAR)
        try:
            found.captions[path] = (" ".join(read_text(sidecar).split()),)
        except FileNotFoundError:
            found.findings.append(Finding("caption_missing", name_in(folder, path), f"there is no {sidecar.name}"))
        except (UnicodeDecodeError, OSError) as error:
            found.findings.append(Finding("caption_unreadable", name_in(folder, sidecar), str(error)))
    return found


def captions_of_metadata(folder: Path, pictures: Iterable[Path], column: str) -> FoundCaptions:
    """Return the captions that ``metadata.jsonl`` gives to each picture.

    Raises:
        DataError: if the file as a whole is not text.
    """
    found = FoundCaptions(METADATA)
    try:
        lines = numbered_lines(read_text(folder / METADATA))
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{folder / METADATA} cannot be read ({error}); save it as UTF-8.") from error
    named: set[Path] = set()
    for number, line in lines:
        _take_line(found, named, folder, f"line {number}", line, column)
    missing = (path for path in pictures if path not in named)
    found.findings.extend(
        Finding("caption_missing", name_in(folder, path), f"{METADATA} has no line for it") for path in missing
    )
    return found


def text_files_without_picture(folder: Path, pictures: Iterable[Path]) -> Iterator[Finding]:
    """Yield a note for each visible text file that lies beside no picture of its name."""
    stems = {path.with_suffix("") for path in pictures}
    for path in sorted(folder.rglob(f"*{SIDECAR}")):
        if is_visible(path, folder) and path.with_suffix("") not in stems:
            expected = f"no picture {path.stem} beside it ({', '.join(sorted(SUFFIXES))})"
            yield Finding("caption_without_picture", name_in(folder, path), expected)


def read_text(path: Path) -> str:
    """Return the text of a file, with or without a byte-order mark."""
    return path.read_text(encoding="utf-8-sig")


def name_in(folder: Path, path: Path) -> str:
    """Return the name of a file for people: relative to the folder if it lies there, and always printable."""
    name = path.relative_to(folder) if path.is_relative_to(folder) else path
    return name.as_posix().encode("utf-8", "replace").decode()


def _take_line(found: FoundCaptions, named: set[Path], folder: Path, where: str, line: str, column: str) -> None:
    """Note the captions of one line, or what is wrong with it."""
    try:
        row = parse_row(line)
        path = folder / file_name_of(row)
        named.add(path)
        if not path.is_file():
            found.findings.append(Finding("metadata_without_file", name_in(folder, path), f"{METADATA}, {where}"))
            return
        found.captions[path] = (*found.captions.get(path, ()), *captions_of(row, column))
    except (DataError, OSError) as error:
        found.findings.append(Finding("metadata_line", METADATA, f"{where}: {error}"))
