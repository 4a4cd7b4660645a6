"""Whose turn it is: two threads that use one pipeline's adapters get an error or correct results, never a mixture.

Changes exclude each other. A change is refused while another thread is inside a forward or a pipeline's call, or holds
the adapters (``using``, a prompt's tags). A forward is refused if another thread has changed the adapters since this
thread did. A thread that never changed anything runs with what is set, as a worker does.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from lorica.errors import StateError

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="TakesTurns")


class Turns:
    """The order among the threads that use the adapters of one pipeline."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._mine = threading.local()  # .seen: the version that this thread left behind
        self._version = 0
        self._running: dict[int, int] = {}  # thread -> forwards and calls that it is inside
        self._holder: tuple[int, int] | None = None  # thread, and how often it holds

    @contextmanager
    def changing(self) -> Iterator[Callable[[], None]]:
        """Around every change of the adapters; what it gives is to be called when the change is made.

        Raises:
            StateError: if another thread runs the model or holds the adapters.
        """
        with self._lock:
            self._check_not_held("change the adapters")
            others = [thread for thread in self._running if thread != threading.get_ident()]
            if others:
                raise StateError(
                    f"another thread ({_named(others[0])}) is making a picture with these adapters, so they cannot be "
                    "changed now. Wait for it, or give each thread a pipeline of its own."
                )
            yield self._made

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep the adapters for this thread: others can neither change nor run them.

        Raises:
            StateError: if another thread runs the model or holds the adapters.
        """
        with self.changing() as made:
            times = self._holder[1] if self._holder else 0
            self._holder = (threading.get_ident(), times + 1)
            made()
        try:
            yield
        finally:
            with self._lock:
                self._holder = (threading.get_ident(), times) if times else None

    def _made(self) -> None:
        self._mine.seen = self._version = self._version + 1

    def enter(self) -> bool:
        """Begin a forward or a pipeline's call. Returns whether it is this thread's outermost.

        Raises:
            StateError: if another thread holds the adapters, or has changed them since this thread did.
        """
        with self._lock:
            self._check_not_held("run the model")
            if getattr(self._mine, "seen", self._version) != self._version:
                raise StateError(
                    "another thread has changed these adapters since this thread set them, so the picture would be "
                    "made with the other one's. Call set() again, use `with loras.using(...)`, or give each thread a "
                    "pipeline of its own."
                )
            me = threading.get_ident()
            self._running[me] = self._running.get(me, 0) + 1
            return self._running[me] == 1

    def leave(self) -> None:
        """End a forward or a pipeline's call; one that was never begun is passed over."""
        with self._lock:
            me = threading.get_ident()
            left = self._running.pop(me, 0) - 1
            if left > 0:
                self._running[me] = left

    def _check_not_held(self, purpose: str) -> None:
        if self._holder is not None and self._holder[0] != threading.get_ident():
            raise StateError(
                f"another thread ({_named(self._holder[0])}) holds these adapters (`using`, or a prompt's tags), so "
                f"this thread cannot {purpose} now. Wait for it, or give each thread a pipeline of its own."
            )


class TakesTurns(Protocol):
    """What has turns, and changes as a whole or not at all."""

    _turns: Turns

    def whole(self) -> AbstractContextManager[None]:
        """Undo what is done within, if an error comes."""
        ...


def in_turn(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Let a method that changes the adapters wait for its turn, and let it change all that it should or nothing."""

    @functools.wraps(method)
    def taking(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._turns.changing() as made, self.whole():  # pyright: ignore[reportPrivateUsage]
            result = method(self, *args, **kwargs)
            made()
            return result

    return taking


def _named(ident: int) -> str:
    return next((thread.name for thread in threading.enumerate() if thread.ident == ident), str(ident))
