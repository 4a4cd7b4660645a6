"""The header of a safetensors file, checked before a byte of the tensors is believed.

Layout (the safetensors format): 8 bytes with the length of the header, the header as JSON, the tensors end to end.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple, cast

from lorica.errors import FileError, FormatError

LENGTH_BYTES = 8
START = 64  # bytes of a file that tell what it is
LARGEST_HEADER = 100_000_000  # the limit of the safetensors library
MOST_TENSORS = 65_536  # of a file: adapters of the largest models have some thousands, and each costs time
MOST_DIMENSIONS = 16  # of a tensor: a weight has five at most, and torch holds no more than 64
LARGEST_SIZE = 1 << 62  # of all dimensions together, also of a tensor without numbers, whose others torch multiplies
# The bytes of one number, and what torch calls its dtype: by name, because reading a header needs no torch.
SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
# What other kinds of file begin with, and what to do about them.
IMPOSTORS: dict[bytes, str] = {
    b"<": "it is a web page (HTML): the download went wrong; use the link to the file itself, logged in if need be",
    b"version https://git-lfs": "it is a Git LFS pointer: run `git lfs pull`, or download the file itself",
    b"PK\x03\x04": "it is a zip archive: unpack it, and name the file in it; a torch checkpoint rename to .bin",
    b"GGUF": "it is a GGUF file, quantised weights for llama.cpp and its like; take the .safetensors in its place",
    b"\x80\x02": "it is a Python pickle under the wrong name: rename it to .bin",
    b"{": "it is JSON text, not weights",
}


class Entry(NamedTuple):
    """One tensor of a file: ``start`` and ``stop`` are bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a file says, found to be true of its size."""

    entries: tuple[Entry, ...]
    metadata: dict[str, str]


def parse_header(content: memoryview, source: str, refusal: str | None = None) -> Header:
    """The header of a safetensors file.

    Args:
        content: the whole file.
        source: what to call the file in messages.
        refusal: why the safetensors library refuses the file, which checks every offset and size; None if it does not.
            Then only what it lets pass and no tensor of torch can be is looked for.

    Raises:
        FileError: if the file is empty, cut short, or its header contradicts its size.
        FormatError: if it is no safetensors file at all.
    """
    length = _header_length(content, source)
    raw = _json(content[LENGTH_BYTES : LENGTH_BYTES + length], source)
    metadata = _metadata(raw.pop("__metadata__", None), source)
    if len(raw) > MOST_TENSORS:
        raise FileError(
            f"{source} has {len(raw)} tensors; at most {MOST_TENSORS} are read, far more than adapters have."
        )
    base = LENGTH_BYTES + length
    if refusal is not None:
        _check_extent([_checked(name, value, base, source) for name, value in raw.items()], base, len(content), source)
        raise FormatError(f"{source} is not a safetensors file that the safetensors library reads: {refusal}.")
    try:
        entries = [_entry(name, value, base) for name, value in raw.items()]
    except (TypeError, KeyError):  # the library takes a list for an object
        entries = [_checked(name, value, base, source) for name, value in raw.items()]
    for entry in entries:
        if entry.dtype not in SIZES or entry.start == entry.stop or len(entry.shape) > MOST_DIMENSIONS:
            _checked(entry.name, raw[entry.name], base, source)
    return Header(tuple(entries), metadata)


def _header_length(content: memoryview, source: str) -> int:
    size = len(content)
    if not size:
        raise FileError(f"{source} is empty (0 bytes): it was not written or downloaded completely.")
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    if size < LENGTH_BYTES or length > size - LENGTH_BYTES:
        refuse_impostor(bytes(content[:START]), source, "a safetensors file")
        raise FileError(
            f"{source} is cut short or not a safetensors file: its header claims {length} bytes, and the file has "
            f"{size}. Download or save it again."
        )
    if length > LARGEST_HEADER:
        refuse_impostor(bytes(content[:START]), source, "a safetensors file")
        raise FileError(f"{source} claims a header of {length} bytes; at most {LARGEST_HEADER} are allowed.")
    return length


def refuse_impostor(start: bytes, source: str, expected: str) -> None:
    """Say what a file is instead, if it is one of the usual others.

    Args:
        start: its first bytes. Each of the others claims an impossible header length.
        source: what to call it in messages.
        expected: what it should have been.

    Raises:
        FormatError: if it is one of them.
    """
    bare = start.lstrip()
    meaning = next((meaning for mark, meaning in IMPOSTORS.items() if bare.lower().startswith(mark.lower())), None)
    if meaning is None and len(bare) > 1 and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in bare):
        meaning = f"it is text, {bare.decode('ascii')!r}, such as a server sends in place of a file"
    if meaning is not None:
        raise FormatError(f"{source} is not {expected}: {meaning}.")


def _json(text: memoryview, source: str) -> dict[str, Any]:
    try:
        raw = json.loads(str(text, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{source} is not a safetensors file: its header is not JSON ({error}).") from error
    if not isinstance(raw, dict):
        raise FormatError(f"{source} is not a safetensors file: its header is a JSON {type(raw).__name__}.")
    return cast("dict[str, Any]", raw)


def _metadata(raw: Any, source: str) -> dict[str, str]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise FormatError(f"{source}: the metadata in its header is a {type(raw).__name__}, not an object of texts.")
    items = cast("dict[str, Any]", raw)
    wrong = [name for name, value in items.items() if not isinstance(value, str)]
    if wrong:
        raise FormatError(f"{source}: the metadata {wrong[0]!r} in its header is not text.")
    return items


def _entry(name: str, raw: Any, base: int) -> Entry:
    begin, end = raw["data_offsets"]
    return Entry(name, raw["dtype"], tuple(raw["shape"]), base + begin, base + end)


def _checked(name: str, raw: Any, base: int, source: str) -> Entry:
    """One tensor's entry, or an error for what is wrong with it: its size must be what its shape and dtype ask for."""
    try:
        entry = _entry(name, raw, base)
        numbers = (*entry.shape, *raw["data_offsets"])
        whole = set(map(type, numbers)) == {int} and min(numbers) >= 0 and isinstance(raw["dtype"], str)
    except (TypeError, KeyError, ValueError):
        whole, entry = False, None
    if not whole or entry is None:
        raise FormatError(f"{source}: the header's entry for {name!r} is malformed: {raw!r:.200}.")
    _, dtype, shape, start, stop = entry
    if dtype not in SIZES:
        raise FormatError(f"{source}: {name!r} has the dtype {dtype!r:.40}. Known: {', '.join(SIZES)}.")
    # Bounded before they are multiplied: the product of thousands of large sizes takes a minute.
    if len(shape) > MOST_DIMENSIONS or prod(filter(None, shape)) > LARGEST_SIZE:
        raise FileError(
            f"{source}: {name!r} claims the shape {str(shape)[:80]} of {len(shape)} dimensions, which no tensor has "
            f"({MOST_DIMENSIONS} dimensions at most). The header is broken."
        )
    if prod(shape) * SIZES[dtype] != stop - start:
        raise FileError(
            f"{source}: {name!r} claims shape {shape} in {dtype}, which is {prod(shape) * SIZES[dtype]} bytes, but its "
            f"place in the file has {stop - start}. The header is broken."
        )
    return entry


def _check_extent(entries: list[Entry], base: int, size: int, source: str) -> None:
    """Refuse tensors that overlap, leave holes, or reach past the end of the file."""
    places = sorted((entry.start, entry.stop, entry.name) for entry in entries)
    end = places[-1][1] if places else base
    if end > size:
        raise FileError(
            f"{source} is cut short: its tensors need {end} bytes, and the file has {size} "
            f"({end - size} are missing). Download or save it again."
        )
    if end < size or (places and places[0][0] != base):
        raise FileError(f"{source} holds {size - base} bytes of tensors, but its header accounts for {end - base}.")
    for (_, stop, name), (start, _, following) in pairwise(places):
        if stop != start:
            raise FileError(f"{source}: the tensors {name!r} and {following!r} overlap or leave a hole between them.")
