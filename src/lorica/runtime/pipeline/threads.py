"""Thread guard: two threads that use one pipeline's adapters get an error or correct results, never a mixture.

Changes exclude each other. A change is refused while another thread is inside a forward or a pipeline's call, or holds
the adapters (``using``, a prompt's tags). A forward is refused if another thread has changed the adapters since this
thread did. A thread that never changed anything runs with what is set, as a worker does.

A forward that an interrupt breaks off never says that it ended (torch runs no hook then), and a thread may die inside
one. So what is noted of a forward is its stack frame, and before anybody is refused it is looked up whether that frame
is still on its thread's stack.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lorica.errors import StateError


class ThreadGuard:
    """The order among the threads that use the adapters of one model."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._mine = threading.local()  # .seen: the version that this thread left behind
        self._version = 0
        self._inside: dict[int, list[FrameType]] = {}  # thread -> the forwards and calls that it is inside
        self._holder: tuple[int, int] | None = None  # thread, and how often it holds

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Around every change of the adapters, which is then this thread's unless it ends by an error.

        Raises:
            StateError: if another thread runs the model or holds the adapters.
        """
        with self._lock:
            me = threading.get_ident()
            if self._holder is not None and self._holder[0] != me:
                raise self._held("change the adapters")
            for thread in tuple(self._inside):
                if thread != me and self._still_inside(thread):
                    raise StateError(
                        f"another thread ({_named(thread)}) is making a picture with these adapters, so they cannot be "
                        "changed now. Wait for it, or give each thread a pipeline of its own."
                    )
            yield
            self._mine.seen = self._version = self._version + 1

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep the adapters for this thread: others can neither change nor run them.

        Raises:
            StateError: if another thread runs the model or holds the adapters.
        """
        me = threading.get_ident()
        times = self._holder[1] if self._holder is not None and self._holder[0] == me else 0
        try:
            try:
                with self.changing():
                    self._holder = (me, times + 1)
                yield
            finally:
                self._let_go(times)
        except BaseException:  # perhaps letting go was interrupted: no other thread could ever use the adapters again
            self._let_go(times)
            raise

    def _let_go(self, times: int) -> None:
        """Hold the adapters only so often, if this thread holds them."""
        with self._lock:
            me = threading.get_ident()
            if self._holder is not None and self._holder[0] == me:
                self._holder = (me, times) if times else None

    def enter(self, frame: FrameType) -> bool:
        """Begin a forward or a pipeline's call. Returns whether it is this thread's outermost.

        Args:
            frame: stays on the thread's stack as long as the forward or call runs.

        Raises:
            StateError: if another thread holds the adapters, or has changed them since this thread did.
        """
        with self._lock:
            me = threading.get_ident()
            if self._holder is not None and self._holder[0] != me:
                raise self._held("run the model")
            nested = me in self._inside and self._still_inside(me)
            if not nested and getattr(self._mine, "seen", self._version) != self._version:
                raise StateError(
                    "another thread has changed these adapters since this thread set them, so the picture would be "
                    "made with the other one's. Call set() again, use `with loras.using(...)`, or give each thread a "
                    "pipeline of its own."
                )
            self._inside.setdefault(me, []).append(frame)
            return not nested

    def leave(self) -> None:
        """End a forward or a pipeline's call; one that was never begun is passed over."""
        with self._lock:
            me = threading.get_ident()
            frames = self._inside.get(me, [])
            if frames:
                frames.pop()
            if not frames:
                self._inside.pop(me, None)

    def _still_inside(self, thread: int) -> bool:
        """Whether a thread is inside a forward or call; those that ended without saying so are forgotten."""
        running: set[FrameType] = set()
        frame = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage]
        while frame is not None:
            running.add(frame)
            frame = frame.f_back
        left = [frame for frame in self._inside.get(thread, []) if frame in running]
        if left:
            self._inside[thread] = left
        else:
            self._inside.pop(thread, None)
        return bool(left)

    def _held(self, purpose: str) -> StateError:
        """The error of a thread that cannot do this while another one holds the adapters."""
        holder = "" if self._holder is None else _named(self._holder[0])
        return StateError(
            f"another thread ({holder}) holds these adapters (`using`, or a prompt's tags), so this thread cannot "
            f"{purpose} now. Wait for it, or give each thread a pipeline of its own."
        )


def _named(ident: int) -> str:
    return next((thread.name for thread in threading.enumerate() if thread.ident == ident), str(ident))
