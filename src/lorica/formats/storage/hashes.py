"""The hashes that a file in Kohya's format has of itself in its metadata.

``sshs_model_hash`` and ``sshs_legacy_hash`` were brought up by the additional-networks extension of A1111's web UI and
are written by kohya's scripts: over a copy of the file that keeps only the ``ss_`` entries of the metadata.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, cast

from lorica.formats.storage.files import Stamp
from lorica.formats.storage.header import LENGTH_BYTES

MODEL_HASH, LEGACY_HASH = "sshs_model_hash", "sshs_legacy_hash"
LEGACY_START, LEGACY_LENGTH, LEGACY_DIGITS = 0x100000, 0x10000, 8
_PADDING = 8


def _own_hashes(header: bytes, tensors: memoryview) -> dict[str, str]:
    hashes = {MODEL_HASH: sha256(tensors).hexdigest()}
    offset = legacy_offset(header)
    return hashes if offset is None else {**hashes, LEGACY_HASH: legacy_hash(tensors[offset : offset + LEGACY_LENGTH])}


def legacy_offset(header: bytes) -> int | None:
    """Where the 64 KiB of the legacy hash begin, counted from the first tensor: one MiB into the copy.

    None if they reach into its header: one with several entries of metadata has no settled order, so there the hash
    says nothing.
    """
    own = _length_in_copy(header)
    return None if own > LEGACY_START else LEGACY_START - own


def legacy_hash(part: bytes | memoryview) -> str:
    """The legacy hash of a file whose 64 KiB these are."""
    return sha256(part).hexdigest()[:LEGACY_DIGITS]


def _length_in_copy(text: bytes) -> int:
    """The length of the header in the copy, with the eight bytes before it."""
    raw = cast("dict[str, Any]", json.loads(text))
    metadata = cast("dict[str, str]", raw.get("__metadata__") or {})
    kept = {name: value for name, value in metadata.items() if name.startswith("ss_")}
    shown = json.dumps({**raw, "__metadata__": kept}, separators=(",", ":"), ensure_ascii=False).encode()
    return LENGTH_BYTES + len(shown) + -len(shown) % _PADDING


OWN_HASHES = Stamp({MODEL_HASH: "0" * sha256().digest_size * 2, LEGACY_HASH: "0" * LEGACY_DIGITS}, _own_hashes)
