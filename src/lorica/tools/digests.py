"""The SHA-256 of a file, computed beside everything else.

Hashing a large piece of memory needs no Python, so it goes on while the program imports what it needs and finds out the
rest. This file imports little, so that hashing can begin before all that.
"""

from __future__ import annotations

from hashlib import sha256
from mmap import ACCESS_READ, mmap
from pathlib import Path
from threading import Thread
from typing import Any

PIECE = 1 << 26  # bytes; after each the thread has to wait for its turn to run Python, some milliseconds
_LENGTH_BYTES = 8  # of a safetensors file: the length of its header


class Digests:
    """The SHA-256 of a safetensors file and of its tensors alone, which a thread computes from now on.

    ``with Digests(path) as digests`` stops the thread at the end, whether it was waited for or not.

    Args:
        path: the file. If it cannot be read, or is no such file, that is said when the values are asked for.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stopped = False
        self._whole = self._tensors = ""
        self._error: Exception | None = None
        self._thread = Thread(target=self._work, name="lorica-digests", daemon=True)
        self._thread.start()

    def values(self) -> tuple[str, str]:
        """Wait for the hash of all bytes and that of the tensors, and return them.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if it is empty.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._whole, self._tensors

    def __enter__(self) -> Digests:
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped = True
        self._thread.join()

    def _work(self) -> None:
        try:
            with self._path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
                start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
                self._whole, self._tensors = self._digest(content, 0), self._digest(content, start)
        except (OSError, ValueError) as error:
            self._error = error

    def _digest(self, content: mmap, start: int) -> str:
        digest: Any = sha256()
        with memoryview(content) as whole:
            for place in range(start, len(whole), PIECE):
                if self._stopped:
                    break
                with whole[place : place + PIECE] as piece:
                    digest.update(piece)
        return digest.hexdigest()
