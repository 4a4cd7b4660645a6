"""Messages and progress of a run on standard error: a bar on a terminal, a line now and then elsewhere.

All lines also go to the logger ``lorica``, for programs that use Lorica as a library.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lorica.errors import escaped

Advance = Callable[[], None]  # counts one more
LOG = logging.getLogger("lorica")
LOG.addHandler(logging.NullHandler())
SILENCE = 20.0  # seconds between lines where there is no terminal


class Reporter:
    """Standard error of a run.

    Args:
        quiet: whether nothing is printed, as on all processes but the first.
        logged: whether the lines go to the logger.
    """

    def __init__(self, *, quiet: bool = False, logged: bool = True) -> None:
        self.quiet, self._logged = quiet, logged
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one line, and log it."""
        if self._logged:
            LOG.info("%s", text)
        self._print(escaped(text))

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
        """Yield a function that counts one more; it takes a note such as the loss."""
        if self._console.is_terminal and not self._console.is_jupyter and sys.stderr.isatty() and not self.quiet:
            with self._bar(title, total, done) as advance:
                yield advance
        else:
            yield self._lines(title, total, done)

    def _print(self, text: str) -> None:
        if self._console.is_jupyter and not self.quiet:  # rich would make a block of HTML of every line
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
        else:
            self._console.print(text, markup=False)

    @contextmanager
    def _bar(self, title: str, total: int, done: int) -> Iterator[Callable[..., None]]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        started = time.perf_counter()
        with Progress(*columns, console=self._console, transient=False) as bar:
            task = bar.add_task(title, total=total, completed=done, rate="", note="")
            count = 0

            def advance(note: str = "") -> None:
                nonlocal count
                count += 1
                bar.update(task, advance=1, rate=_rate(count, time.perf_counter() - started), note=note)

            yield advance

    def _lines(self, title: str, total: int, done: int) -> Callable[..., None]:
        started = last = time.perf_counter()
        count = 0

        def advance(note: str = "") -> None:
            nonlocal count, last
            count += 1
            now = time.perf_counter()
            if now - last < SILENCE and count + done < total:
                return
            last, spent = now, now - started
            left = spent / count * (total - done - count)
            self.say(f"{title} {done + count}/{total}  {_rate(count, spent)}  {left:.0f} s left  {note}".rstrip())

        return advance


def _rate(count: int, seconds: float) -> str:
    rate = count / max(seconds, 1e-9)
    return f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
