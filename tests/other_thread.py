"""Something done in another thread, while this one waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from lorica.errors import StateError


def elsewhere(action: Callable[[], Any]) -> Any:
    """Do something in another thread, and return its result or its error."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(action())
        except BaseException as error:  # noqa: BLE001  # handed to the test
            result.append(error)

    thread = threading.Thread(target=run, name="other")
    thread.start()
    thread.join(20)
    assert result, "the other thread hangs"
    return result[0]


def refused(result: Any, message: str) -> bool:
    return isinstance(result, StateError) and message in str(result)
