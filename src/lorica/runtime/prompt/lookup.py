"""Adapters of a folder by name: the path, the file's name, its folder's name, or the title inside the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError, safe_open

from lorica.errors import ConfigError, FileError, UnknownNameError
from lorica.formats.storage.folders import adapter_files
from lorica.formats.storage.sources import PREFERRED
from lorica.printing import expanded

TITLES = ("ss_output_name", "modelspec.title")  # where trainers leave the name that an adapter was given
USUAL = frozenset(Path(name).stem for name in PREFERRED)  # of files that are told apart by their folders


def checked_folder(folder: str | Path) -> Path:
    """Folder of adapters.

    Raises:
        FileError: if there is no such folder.
    """
    path = expanded(folder)
    if not path.is_dir():
        raise FileError(f"there is no folder {path} to look for adapters in.")
    return path


def find_adapter(folder: Path | None, name: str, loaded: Sequence[str] = ()) -> Path:
    """File of an adapter, by any name of it that no other file of the folder has too.

    The whole path below the folder, with the suffix, comes first; then the ends of the path, with or without the
    suffix; then titles. Each is compared as it is, then in any case of letters.

    Args:
        folder: where files are looked for, also in its folders; None for nowhere.
        name: the name, such as ``sample``, ``sub/sample`` or ``sample.pt``.
        loaded: other names there are, for the message.

    Raises:
        UnknownNameError: if no file has the name.
        ConfigError: if several have it.
    """
    files = adapter_files(folder) if folder else []
    wanted = PurePosixPath(name.replace("\\", "/")).as_posix()  # without a leading ./
    for names_of in (_whole, _by_path, _by_title):
        names = {path: list(names_of(path, folder)) for path in files if folder}
        for spelling in (str, str.lower):
            found = [path for path, own in names.items() if spelling(wanted) in map(spelling, own)]
            if len(found) > 1:
                raise ConfigError(_several(name, [path.relative_to(folder or "").as_posix() for path in found]))
            if found:
                return found[0]
    raise UnknownNameError.choose("adapter", name, {*loaded, *map(short_name, files)})


def short_name(path: Path) -> str:
    """Name of a file's adapter: that of the file, or of its folder where the file has a name like all others."""
    return path.absolute().parent.name if path.stem in USUAL else path.stem


def _whole(path: Path, folder: Path) -> Iterator[str]:
    yield path.relative_to(folder).as_posix()


def _by_path(path: Path, folder: Path) -> Iterator[str]:
    """Ends of the path: ``sample``, ``sample.pt``, ``sub/sample``, and for a file with a usual name ``sub``."""
    parts = path.relative_to(folder).parts
    for ends in (parts, (*parts[:-1], path.stem)):
        yield from ("/".join(ends[start:]) for start in range(len(ends)))
    if path.stem in USUAL:
        folders = (folder.resolve().name, *parts[:-1])
        yield from ("/".join(folders[start:]) for start in range(len(folders)))


def _by_title(path: Path, folder: Path) -> Iterator[str]:
    """Titles in the metadata; none in a broken file, which nobody asked for."""
    del folder
    if path.suffix.lower() != ".safetensors":
        return
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return
    yield from (metadata[field] for field in TITLES if metadata.get(field))


def _several(name: str, paths: Sequence[str]) -> str:
    return (
        f"{name!r} is the name of {len(paths)} adapters: {' and '.join(paths[:5])}"
        f"{f' and {len(paths) - 5} more' if len(paths) > 5 else ''}. Write one of them as it stands here."
    )
