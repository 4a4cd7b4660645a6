"""Trackers of accelerate, such as tensorboard and wandb: the settings, the numbers and the previews of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from lorica.errors import ConfigError, MissingExtraError
from lorica.training.output.preview import open_picture

PROJECT = "lorica"


def tracker_names(report_to: str | None) -> list[str]:
    """Names in ``report_to``: one, several with commas between them, ``all`` for those installed, ``none``.

    Raises:
        ConfigError: for a name that accelerate does not know.
    """
    names = [name.strip().lower() for name in (report_to or "none").split(",")]
    if names == ["none"]:
        return []
    known = [str(kind) for kind in LoggerType.list()]
    for name in names:
        if name not in known:
            raise ConfigError(f"report_to names the tracker {name!r}; known are {', '.join(known)} and none.")
    return names


def tracked_accelerator(report_to: str | None, folder: Path) -> Accelerator:
    """An accelerator with the trackers; they write nothing before :func:`start_trackers`.

    Raises:
        MissingExtraError: if a tracker that is named is not installed.
    """
    names = tracker_names(report_to)
    if not names:
        return Accelerator()
    found = [str(kind) for kind in get_available_trackers()]
    lacking = [name for name in names if name not in found] if "all" not in names else []
    if lacking or not found:
        raise MissingExtraError(
            f"the tracker report_to={(','.join(lacking) or report_to)!r} is not installed; pip install it, or unset it."
        )
    return Accelerator(log_with=list(names), project_dir=folder)


def start_trackers(accelerator: Accelerator, settings: Mapping[str, object]) -> None:
    """Begin a run in every tracker, with the settings; lists become JSON, as trackers take plain values alone."""
    plain = {
        name: value if isinstance(value, str | int | float) else json.dumps(value) for name, value in settings.items()
    }
    try:
        accelerator.init_trackers(PROJECT, config=plain)
    except (ImportError, ValueError, OSError) as error:
        raise MissingExtraError(f"a tracker of report_to cannot be used: {error}") from error


def track_pictures(accelerator: Accelerator, pictures: Sequence[tuple[Path, str]], step: int) -> None:
    """Hand previews, each with its prompt, to every tracker that takes pictures."""
    rows = [np.asarray(open_picture(path)) for path, _ in pictures]
    for tracker in accelerator.trackers:
        named: Any = tracker
        if not rows or not hasattr(named, "log_images"):
            continue
        if named.name == "wandb":
            named.log_images({"previews": rows}, step=step, caption=[prompt for _, prompt in pictures])
        else:
            named.log_images({"previews": np.stack(rows)}, step=step, dataformats="NHWC")
