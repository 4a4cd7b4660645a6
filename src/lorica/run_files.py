"""Names of what a training run writes: by them its state is told from adapters, and its folder from one of pictures."""

from __future__ import annotations

import os
from pathlib import Path

RUN, METRICS, PLOT, PREVIEWS = "run.toml", "metrics.jsonl", "loss.png", "previews"
CHECKPOINT = "checkpoint-"  # before the step
STATE, MANIFEST = "state.safetensors", "checkpoint.json"  # beside the adapter of a checkpoint


def is_run_state(path: Path) -> bool:
    """Whether a file is the state that a checkpoint of a training run holds beside the adapter."""
    return path.name == STATE and path.with_name(MANIFEST).is_file()


def is_output_folder(folder: Path) -> bool:
    """Whether a folder is what a training run writes: it holds the run file at once, and soon the others."""
    if not os.path.isfile(folder / RUN):  # noqa: PTH113  # pathlib raises for names that are too long
        return False
    return os.path.isfile(folder / METRICS) or any(folder.glob(f"{CHECKPOINT}*"))  # noqa: PTH113
