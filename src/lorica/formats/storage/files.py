"""Tensors from files and into files: memory-mapped reading, writing with the safetensors library."""

from __future__ import annotations

import json
import mmap
import os
import re
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lorica.atomic import atomic_write
from lorica.errors import FileError, FormatError
from lorica.formats.storage.header import (
    LENGTH_BYTES,
    SIZES,
    START,
    TORCH_NAMES,
    Entry,
    Header,
    parse_header,
    refuse_impostor,
)
from lorica.formats.storage.unread import Unread, view

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_STORED = {f"torch.{name}" for name in TORCH_NAMES.values()}
_MOST_SHARED = 4  # times the size of a checkpoint that its tensors may have together: some share their memory
_OWN_STARTS = (b"PK\x03\x04", b"\x80\x02")  # of torch checkpoints, new and old
_OBJECT = re.compile(r"(?:GLOBAL|class|function) ([\w.]+)")  # in what torch says of an object that it does not load


@dataclass(frozen=True, slots=True)
class FileContents:
    """The content of one file.

    Args:
        source: what to call it in messages.
        tensors: its tensors by key.
        metadata: the texts in its header.
        blocks: the same numbers as ``tensors`` in few flat pieces, for a quick look at all; may be empty.
    """

    source: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    blocks: tuple[Tensor, ...] = ()


def load(path: Path) -> FileContents:
    """Tensors and metadata of a file. Tensors of a safetensors file are views of the file: pages are read when used.

    Raises:
        FileError: if the file cannot be read, is empty, cut short or broken.
        FormatError: if it is not a file of tensors.
    """
    try:
        _check_regular(path)
        if path.suffix.lower() in PICKLED:
            return FileContents(str(path), _load_pickled(path))
        return _load_safetensors(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def peek(path: Path) -> FileContents:
    """Tensors and metadata of a file, no tensor read: each is :class:`Unread` until something needs its numbers.

    Raises:
        FileError: if the file cannot be read, is empty, cut short or broken.
        FormatError: if it is not a file of tensors.
    """
    if path.suffix.lower() in PICKLED:
        return load(path)
    try:
        _check_regular(path)
        content, header = _map(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    return FileContents(str(path), _unread(content, header), header.metadata)


class Stamp(NamedTuple):
    """Metadata that a file has of its own content, such as hashes: known only when the content is written.

    Args:
        reserved: the names, each with a text that is as long as the longest value.
        made: the finished header without its metadata's order, and the bytes of the tensors, to what is true of them;
            a name may be left out.
    """

    reserved: Mapping[str, str]
    made: Callable[[bytes, memoryview], Mapping[str, str]]


def save(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str], stamp: Stamp | None = None) -> None:
    """Write a safetensors file whole or not at all: the same content always gives the same bytes.

    Raises:
        FileError: if the folder or the file cannot be written.
        FormatError: if a tensor or a text is one that such a file cannot hold.
    """
    own = _storable(tensors)
    reserved = {**metadata, **(stamp.reserved if stamp else {})}
    check_unicode((*own, *reserved, *reserved.values()))
    with atomic_write(path) as waiting:
        try:
            save_file(own, waiting, reserved or None)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        _finish_header(waiting, path, metadata, stamp)


def save_text(text: str, path: Path) -> None:
    """Write a text file whole or not at all.

    Raises:
        FileError: if the folder or the file cannot be written.
    """
    with atomic_write(path) as waiting:
        waiting.write_text(text, encoding="utf-8", newline="")


def check_unicode(texts: Iterable[str]) -> None:
    """Raise unless all texts can be written: Python's may hold half of a surrogate pair, which no encoding has.

    Raises:
        FormatError: naming the first that cannot.
    """
    broken = next((text for text in texts if _HALF_A_PAIR.search(text)), None)
    if broken is not None:
        raise FormatError(f"{broken!r:.200} is no Unicode text, and a safetensors file holds nothing else.")


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as the safetensors library writes them: on the CPU, contiguous, none sharing memory with another."""
    own: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        if str(tensor.dtype) not in _STORED:
            raise FormatError(f"{name!r} has the dtype {tensor.dtype}, which a safetensors file cannot hold.")
        plain = tensor.detach().cpu().contiguous()
        begin = plain.untyped_storage().data_ptr()
        own[name] = plain.clone() if begin in memory else plain
        memory.add(begin)
    return own


def _finish_header(written: Path, path: Path, metadata: Mapping[str, str], stamp: Stamp | None) -> None:
    """Write the metadata of a file again, stamped and in order: the library writes it in a random one."""
    with written.open("r+b") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        text = file.read(length)
        made: Mapping[str, str] = {}
        if stamp:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
                made = stamp.made(text, view[LENGTH_BYTES + length :])
        header = json.loads(text)
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted({**metadata, **made}.items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:  # not for the order, nor for a stamp that is no longer than what was reserved
            raise FileError(f"cannot write {path}: its header has {length} bytes, and {len(text)} are needed.")
        file.seek(LENGTH_BYTES)
        file.write(text.ljust(length))


def _load_safetensors(path: Path) -> FileContents:
    content, header = _map(path)
    tensors = {entry.name: view(content, entry) for entry in header.entries}
    return FileContents(str(path), tensors, header.metadata, _blocks(content, header.entries))


def _map(path: Path) -> tuple[mmap.mmap | bytes, Header]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if size else b""
    return content, parse_header(memoryview(content), str(path), _refusal(path))


def _refusal(path: Path) -> str | None:
    """Why the safetensors library refuses a file, or None: no other program shall call broken what is read here."""
    try:
        with safe_open(str(path), framework="np"):
            return None
    except SafetensorError as error:
        return str(error).removeprefix("Error while deserializing header: ")


def _check_regular(path: Path) -> None:
    """Refuse pipes and devices, which are read for ever: only files have an end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise FileError(f"cannot read {path}: it is {what}, not a file.")


def _unread(content: mmap.mmap | bytes, header: Header) -> Mapping[str, Tensor]:
    """Return the stand-ins; to everything that only looks at dtypes and shapes they are tensors."""
    return cast("Mapping[str, Tensor]", {entry.name: Unread(content, entry) for entry in header.entries})


def _unreadable(path: Path, error: OSError) -> FileError:
    return error if isinstance(error, FileError) else FileError(f"cannot read {path}: {error.strerror or error}.")


def _blocks(content: mmap.mmap | bytes, entries: tuple[Entry, ...]) -> tuple[Tensor, ...]:
    """The numbers of a file in few flat pieces: neighbours of one dtype together."""
    blocks: list[Tensor] = []
    for dtype, group in groupby(sorted(entries, key=attrgetter("start", "stop")), key=attrgetter("dtype")):
        run = list(group)
        start, stop = run[0].start, run[-1].stop
        blocks.append(view(content, Entry("", dtype, ((stop - start) // SIZES[dtype],), start, stop)))
    return tuple(blocks)


def _load_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a torch checkpoint, read by the loader that runs no code."""
    size = path.stat().st_size
    if not size:
        raise FileError(f"{path} is empty (0 bytes): it was not written or downloaded completely.")
    _check_packed(path, size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a broken file looks like
            raw = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # an unpickler raises whatever a broken file makes of it
        with path.open("rb") as file:
            start = file.read(START)
        refuse_impostor(b"" if start.startswith(_OWN_STARTS) else start, str(path), "a torch checkpoint")
        raise FormatError(f"{path} cannot be read as plain tensors: {_why_not(error, start)}") from error
    tensors = tensors_of(raw, str(path))
    _check_covered(tensors, path, size)
    return tensors


def _check_packed(path: Path, size: int) -> None:
    """Refuse a zip archive that says it holds more than the file: torch packs nothing, a bomb packs gigabytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return  # an older checkpoint, or what torch says no to
    if unpacked > size:
        raise FileError(
            f"{path} has {size} bytes and would unpack to {unpacked}: torch writes its checkpoints unpacked, and this "
            "may be made to fill the memory. Nothing was read."
        )


def _check_covered(tensors: Mapping[str, Tensor], path: Path, size: int) -> None:
    """Refuse tensors that repeat the same few numbers: a file of a kilobyte could claim gigabytes."""
    total = 0
    for name, tensor in tensors.items():
        length = tensor.numel() * tensor.element_size()
        total += length
        stored = tensor.untyped_storage().nbytes()
        if length > stored or total > _MOST_SHARED * size:
            raise FileError(
                f"{path}: {name!r} of shape {tuple(tensor.shape)} is {length} bytes, made of {stored} in a file of "
                f"{size}: its numbers are repeated, not stored. Save it again with tensors that are contiguous."
            )


def _why_not(error: Exception, start: bytes) -> str:
    """Reason why a torch checkpoint is refused, in our words: torch's advise to load it without care."""
    if start[LENGTH_BYTES : LENGTH_BYTES + 2] == b'{"':
        return "it is a safetensors file under the wrong name: rename it to .safetensors."
    refused = _OBJECT.search(str(error))
    if refused:
        return (
            f"it holds Python objects ({refused[1]}), which could run code when loaded and are refused. Convert it to "
            ".safetensors where it came from."
        )
    return "it is cut short or broken. Download or save it again."


def tensors_of(raw: Any, source: str, *, nested: bool = True) -> dict[str, Tensor]:
    """The state dict in what was given, also one level down under ``state_dict`` if it may be nested.

    An alpha that is a plain number becomes a tensor.

    Raises:
        FormatError: if it is not a mapping of names to tensors that have numbers.
    """
    if isinstance(raw, list):
        return _numbered(cast("list[Any]", raw), source)
    if not isinstance(raw, Mapping):
        raise FormatError(f"{source} holds a {type(raw).__name__}; expected named tensors.")
    items = cast("Mapping[Any, Any]", raw)
    if nested and isinstance(items.get("state_dict"), Mapping):
        return tensors_of(items["state_dict"], source, nested=False)
    return {name: _tensor_of(name, value, source) for name, value in items.items()}


def _tensor_of(name: Any, value: Any, source: str) -> Tensor:
    if type(value) in (int, float) and str(name).endswith(".alpha"):
        value = torch.tensor(value, dtype=torch.float64)
    if not isinstance(name, str) or not isinstance(value, Tensor):
        raise FormatError(f"{source} holds a {type(value).__name__} under {name!r}; expected only named tensors.")
    if value.is_meta or value.is_nested or value.is_quantized or value.layout is not torch.strided:
        kind = "nested" if value.is_nested else "quantized" if value.is_quantized else f"of layout {value.layout}"
        what = "on the meta device, without numbers" if value.is_meta else kind
        raise FormatError(f"{source}: the tensor {name!r} is {what}; expected a dense one with its numbers.")
    return value


def _numbered(raw: list[Any], source: str) -> dict[str, Tensor]:
    """Return the bare list of cloneofsimo/lora, ups and downs by turns, under the names of its other kind of file."""
    if not raw or not all(isinstance(item, Tensor) for item in raw):
        raise FormatError(f"{source} holds a list that is not of tensors; expected named tensors.")
    component = "text_encoder" if ".text_encoder." in Path(source).name else "unet"
    halves = ("up", "down")
    return {f"{component}:{place // 2}:{halves[place % 2]}": tensor for place, tensor in enumerate(raw)}
