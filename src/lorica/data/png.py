"""PNG files without their texts, and with their colour profile apart: Pillow refuses files where these are large."""

from __future__ import annotations

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
PROFILE = b"iCCP"
MOST_PROFILE = 32 * 2**20  # bytes; a larger one is no profile
SHORT_TEXT = 2**16  # bytes of a text that stays: it may be the XMP data with the orientation


def without_texts(content: bytes) -> tuple[bytes, bytes | None]:
    """A file without long texts and without a colour profile, and that profile, decompressed, if it has a whole one.

    Other files, and PNGs with neither, are returned as they are.
    """
    if not content.startswith(SIGNATURE):
        return content, None
    kept, start, profile = [SIGNATURE], len(SIGNATURE), None
    position = start
    while position + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if kind == PROFILE or _is_long_text(kind, content, position + 8, length):
            kept.append(content[start:position])
            start = end
            if kind == PROFILE:
                profile = _profile(content[position + 8 : position + 8 + length])
        position = end
    return (content, None) if len(kept) == 1 else (b"".join((*kept, content[start:])), profile)


def _is_long_text(kind: bytes, content: bytes, begin: int, length: int) -> bool:
    """Whether a chunk is a text that is long, or could become so when it is decompressed."""
    return kind in TEXTS and (length > SHORT_TEXT or not _is_plain(kind, content[begin : begin + length]))


def _is_plain(kind: bytes, body: bytes) -> bool:
    if kind == b"iTXt":
        place = body.find(b"\0")
        return body[place : place + 2] == b"\0\0"  # the mark that the text is not compressed
    return kind == b"tEXt"


def _profile(body: bytes) -> bytes | None:
    """The profile of an ``iCCP`` chunk: a name, a zero byte, the number of the method, compressed bytes."""
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(body[body.index(b"\0") + 2 :], MOST_PROFILE)
    except (ValueError, zlib.error):
        return None
    return profile if unpacker.eof else None
