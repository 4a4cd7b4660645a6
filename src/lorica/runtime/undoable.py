"""What ends again: schedules and regions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack


class Undoable(ExitStack):
    """What ends by :meth:`end`, or at the end of a ``with`` block, also after an error.

    Args:
        end: ends it; called twice, so that an interrupt in the first call leaves nothing behind.
    """

    def __init__(self, end: Callable[[], None]) -> None:
        super().__init__()
        for _ in range(2):
            self.callback(end)

    def end(self) -> None:
        """End it."""
        self.close()


class UndoableSchedule(Undoable):
    """A schedule, which stays for every call within a ``with`` block.

    Args:
        end: ends it.
        enter: makes it stay.
    """

    def __init__(self, end: Callable[[], None], enter: Callable[[], None]) -> None:
        super().__init__(end)
        self._enter = enter

    def __enter__(self) -> UndoableSchedule:
        try:
            self._enter()
        except BaseException:
            self.close()
            raise
        return self
