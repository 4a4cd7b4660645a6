"""The hashes that a file in Kohya's format has of itself in its metadata.

``sshs_model_hash`` and ``sshs_legacy_hash`` were brought up by the additional-networks extension of A1111's web UI and
are written by kohya's scripts: over a copy of the file that keeps only the ``ss_`` entries of the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import accumulate
from typing import Any, cast

from torch import Tensor

from lorica.formats.storage.files import pieces_of
from lorica.formats.storage.header import LENGTH_BYTES

MODEL_HASH, LEGACY_HASH = "sshs_model_hash", "sshs_legacy_hash"
LEGACY_START, LEGACY_LENGTH, LEGACY_DIGITS = 0x100000, 0x10000, 8
_PADDING = 8


def hashes_of_content(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes that a file of these tensors and this metadata has of itself."""
    _, header, *blobs = pieces_of(tensors, metadata)
    model = sha256()
    for blob in blobs:
        model.update(blob)
    offset = legacy_offset(header)
    legacy = {} if offset is None else {LEGACY_HASH: legacy_hash(_part(blobs, offset, offset + LEGACY_LENGTH))}
    return {MODEL_HASH: model.hexdigest(), **legacy}


def legacy_offset(header: bytes) -> int | None:
    """Return where the 64 KiB of the legacy hash begin, counted from the first tensor: one MiB into the copy.

    None if they reach into its header: one with several entries of metadata has no settled order, so there the hash
    says nothing.
    """
    own = _length_in_copy(header)
    return None if own > LEGACY_START else LEGACY_START - own


def legacy_hash(part: bytes) -> str:
    """Return the legacy hash of a file whose 64 KiB these are."""
    return sha256(part).hexdigest()[:LEGACY_DIGITS]


def _part(blobs: Sequence[Any], start: int, stop: int) -> bytes:
    """Return the bytes from ``start`` to ``stop`` of pieces that lie behind each other."""
    begins = accumulate((len(blob) for blob in blobs), initial=0)
    return b"".join(
        bytes(blob[max(start - begin, 0) : max(stop - begin, 0)]) for blob, begin in zip(blobs, begins, strict=False)
    )


def _length_in_copy(text: bytes) -> int:
    """Return the length of the header, with its own length before it, if only the ``ss_`` metadata is kept."""
    raw = cast("dict[str, Any]", json.loads(text))
    metadata = cast("dict[str, str]", raw.get("__metadata__") or {})
    kept = {name: value for name, value in metadata.items() if name.startswith("ss_")}
    shown = json.dumps({**raw, "__metadata__": kept}, separators=(",", ":"), ensure_ascii=False).encode()
    return LENGTH_BYTES + len(shown) + -len(shown) % _PADDING
