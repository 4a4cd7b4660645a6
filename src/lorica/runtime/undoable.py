"""What ends again: schedules and regions."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType


class Undoable:
    """What ends again: by :meth:`end`, or at the end of a ``with`` block, also after an error.

    Args:
        end: ends it.
        enter: called when a ``with`` block begins.
    """

    def __init__(self, end: Callable[[], None], enter: Callable[[], None] = lambda: None) -> None:
        self._end, self._enter = end, enter

    def end(self) -> None:
        """End it."""
        self._end()

    def __enter__(self: Undoable) -> Undoable:
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self._end()
