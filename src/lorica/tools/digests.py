"""SHA-256 of a file, computed in a thread.

Hashing a large piece of memory releases the interpreter lock, so it goes on while the program imports what it needs and
finds out the rest. This file imports little, so that hashing can begin before all that.
"""

from __future__ import annotations

from hashlib import sha256
from mmap import ACCESS_READ, mmap
from pathlib import Path
from threading import Thread
from typing import Any

PIECE = 1 << 26  # bytes; after each, the thread waits some milliseconds for the interpreter lock
_LENGTH_BYTES = 8  # of a safetensors file: the length of its header


class Digests:
    """SHA-256 of a safetensors file and of its tensors alone, computed by a thread that starts at once.

    ``with Digests(path) as digests`` stops the thread at the end, whether it is done or not.

    Args:
        path: the file. If it cannot be read, :meth:`values` raises.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stopped = False
        self._whole = self._tensors = ""
        self._error: Exception | None = None
        self._thread = Thread(target=self._work, name="lorica-digests", daemon=True)
        self._thread.start()

    def values(self) -> tuple[str, str]:
        """Hash of all bytes and hash of the tensors; waits for the thread.

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
