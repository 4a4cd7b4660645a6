"""What all benchmarks share at their edges: the options ``--small`` and ``--out``, and the file of results."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Parser of a benchmark's command line, with the options that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--small", action="store_true", help="tiny and once: to see that it runs; stores no results")
    parser.add_argument("--out", type=Path, help="folder of the results; by default benchmarks/results")
    return parser


def results_file(given: argparse.Namespace, name: str) -> Path | None:
    """Where the results of a run go; None for a small run that was given no folder."""
    if given.small and given.out is None:
        return None
    folder = given.out or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.json"


def store(where: Path | None, figures: dict[str, Any], indent: int | None = 1) -> None:
    """Write figures and the machine that they were measured on."""
    if where is not None:
        where.write_text(json.dumps({**figures, **machine()}, indent=indent) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Number of threads, version of torch, and system."""
    return {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.platform()}
