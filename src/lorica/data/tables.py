"""Pictures and captions of a data set of the ``datasets`` library: on the Hub, or a folder or file on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from lorica.data.items import Item
from lorica.errors import ConfigError, DataError, FileError
from lorica.printing import expanded

BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".jsonl": "json", ".json": "json", ".csv": "csv"}
SAVED = ("state.json", "dataset_dict.json")  # what ``save_to_disk`` leaves
SPLIT = "train"


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture of a table: its bytes, or the path of its file, relative to ``base``."""

    table: Any
    row: int
    column: str
    base: Path

    def read(self) -> bytes:
        """Bytes of the picture.

        Raises:
            DataError: if there is none, or its file cannot be read.
        """
        value = self.table[self.row][self.column]
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, bytes):
            return content
        path = cast("dict[str, object]", value).get("path") if isinstance(value, dict) else value
        if not isinstance(path, str):
            raise DataError(f"row {self.row} of {self.base} has no picture in {self.column!r}, but {value!r}.")
        try:
            return (self.base / path).read_bytes()
        except OSError as error:
            raise DataError(f"row {self.row} names a picture that cannot be read: {error}.") from error


def find_rows(
    name: str,
    *,
    config_name: str | None = None,
    image_column: str = "image",
    caption_column: str = "text",
    caption: str | None = None,
    cache_dir: Path | None = None,
) -> list[Item]:
    """Pictures of a data set, each with its caption; pictures are read when they are needed.

    Args:
        name: an id on the Hub, a folder (pictures, tables, or what ``save_to_disk`` wrote) or a table on disk.
        config_name: the configuration, if the data set has several.
        image_column: the column of the pictures: pictures, bytes, or names of files.
        caption_column: that of the captions: texts, or lists of texts.
        caption: one caption for all; then the column is not read.
        cache_dir: the cache folder of the library.

    Raises:
        FileError: if there is no such data set, or it cannot be read.
        ConfigError: if it has no such column.
        DataError: if a caption is missing.
    """
    path = expanded(name)
    table = _as_files(_train_part(_load(name, path, config_name, cache_dir), name), image_column, name)
    captions = [caption] * len(table) if caption is not None else _captions(table, caption_column, name)
    base = path if path.is_dir() else path.parent
    title = Path(path.name if path.exists() else name)
    return [
        _item(title / f"row-{number}", told, Cell(table, number, image_column, base))
        for number, told in enumerate(captions)
    ]


def _load(name: str, path: Path, config_name: str | None, cache_dir: Path | None) -> Any:
    import datasets  # takes seconds
    from datasets.exceptions import DatasetsError

    kept = None if cache_dir is None else str(cache_dir)
    try:
        if path.is_dir() and any((path / saved).is_file() for saved in SAVED):
            return datasets.load_from_disk(str(path))
        if path.is_file():
            if path.suffix.lower() not in BUILDERS:
                raise FileError(f"{path} is no table that can be read; expected one of {', '.join(BUILDERS)}.")
            return datasets.load_dataset(BUILDERS[path.suffix.lower()], data_files=str(path), cache_dir=kept)
        return datasets.load_dataset(str(path) if path.is_dir() else name, config_name, cache_dir=kept)
    except (OSError, ValueError, DatasetsError) as error:
        if isinstance(error, FileError):
            raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileError(f"the data set {name!r} cannot be loaded: {said}") from error


def _train_part(loaded: Any, name: str) -> Any:
    """Split to train on: ``train``, or the only one there is."""
    if not isinstance(loaded, dict):
        return loaded
    parts = cast("dict[str, Any]", loaded)
    if SPLIT not in parts and len(parts) != 1:
        raise ConfigError(f"the data set {name!r} has no part {SPLIT!r}, but: {', '.join(sorted(parts))}.")
    return parts[SPLIT] if SPLIT in parts else next(iter(parts.values()))


def _as_files(table: Any, column: str, name: str) -> Any:
    """Table with its pictures as the bytes of their files, not decoded."""
    import datasets

    _check_column(table, column, name, "image_column")
    kind = table.features[column]
    if isinstance(kind, datasets.Image):
        return table.cast_column(column, datasets.Image(decode=False))
    if isinstance(kind, dict) or getattr(kind, "dtype", None) in ("string", "large_string", "binary", "large_binary"):
        return table
    pictures = [other for other, feature in table.features.items() if isinstance(feature, datasets.Image)]
    hint = f" Pictures are in: {', '.join(pictures)}." if pictures else ""
    raise ConfigError(f"the column {column!r} of {name!r} holds no pictures but {kind}; set --image_column.{hint}")


def _check_column(table: Any, column: str, name: str, setting: str) -> None:
    columns = cast("list[str]", table.column_names)
    if column not in columns:
        near = get_close_matches(column, columns, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"the data set {name!r} has no column {column!r}.{hint} It has: {', '.join(columns)}. Set --{setting}."
        )


def _captions(table: Any, column: str, name: str) -> list[str | list[str]]:
    _check_column(table, column, name, "caption_column")
    captions = cast("list[object]", table.select_columns([column])[column][:])
    for number, caption in enumerate(captions):
        texts = cast("list[object]", caption) if isinstance(caption, list) else [caption]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(f"row {number} of {name!r}: {column!r} must be a text or a list of texts, got {caption!r}.")
    return cast("list[str | list[str]]", captions)


def _item(path: Path, told: str | Sequence[str], cell: Cell) -> Item:
    first, *others = [told] if isinstance(told, str) else told
    return Item(path, first, tuple(others), stored=cell)
