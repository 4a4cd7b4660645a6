"""Hashes by which programs and sites identify a LoRA file, computed and compared with those that the file states."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from mmap import ACCESS_READ, mmap
from pathlib import Path

from lorica.formats.storage.hashes import LEGACY_HASH, LEGACY_LENGTH, MODEL_HASH, legacy_hash, legacy_offset
from lorica.formats.storage.header import LENGTH_BYTES
from lorica.tools.digests import Digests
from lorica.tools.facts import Hash, Verdict

FILE_HASH = "sha256"
_HUB_BLOBS = "blobs"  # in the Hub's cache a file of this folder is named after its SHA-256
_HEX = set("0123456789abcdef")
NOTES = {
    MODEL_HASH: "of the tensors alone; its first 12 digits are Civitai's AutoV3",
    LEGACY_HASH: "of 64 KiB of the file, as old web UIs computed it",
    FILE_HASH: "of the whole file; its first 10 digits are Civitai's AutoV2",
}


def hashes_of(path: Path, metadata: Mapping[str, str], digests: Digests) -> tuple[Hash, ...]:
    """Every hash of a safetensors file, each beside the stored value.

    Args:
        path: the file.
        metadata: the metadata in its header.
        digests: the two that take long, computed in a thread.
    """
    whole, tensors = digests.values()
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        legacy = _legacy(content, LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little"))
    return (
        _hash(MODEL_HASH, tensors, metadata.get(MODEL_HASH)),
        _hash(LEGACY_HASH, legacy, metadata.get(LEGACY_HASH)),
        _hash(FILE_HASH, whole, _named_after(path.resolve())),
    )


def unchecked(metadata: Mapping[str, str]) -> tuple[Hash, ...]:
    """Hashes that are stored in the metadata, none of them computed."""
    stored = (name for name in (MODEL_HASH, LEGACY_HASH) if name in metadata)
    return tuple(Hash(name, None, metadata[name], "not checked", NOTES[name]) for name in stored)


def _hash(name: str, value: str | None, stored: str | None) -> Hash:
    verdict: Verdict = "not stored" if stored is None else "right" if stored == value else "wrong"
    if value is None and stored is not None:
        verdict = "not checked"
    return Hash(name, value, stored, verdict, NOTES[name])


def _legacy(content: mmap, start: int) -> str | None:
    """Hash of 64 KiB that begin one MiB into the copy, or None if they reach into its header."""
    offset = legacy_offset(content[LENGTH_BYTES:start])
    return None if offset is None else legacy_hash(content[start + offset : start + offset + LEGACY_LENGTH])


def _named_after(path: Path) -> str | None:
    """SHA-256 in the name of a file of the Hub's cache, or None for any other file."""
    is_hash = len(path.name) == sha256().digest_size * 2 and set(path.name) <= _HEX
    return path.name if is_hash and path.parent.name == _HUB_BLOBS else None
