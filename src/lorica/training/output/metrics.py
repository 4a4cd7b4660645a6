"""The loss curve of a run: one line of JSON a step, and a plot of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any, TextIO, cast

from matplotlib.figure import Figure

from lorica.formats.storage.files import save_text
from lorica.run_files import METRICS, PLOT
from lorica.training.loop import StepReport

SAMPLES = "samples"  # of a line: of each sample its picture, its noise level and its loss
WINDOW = 0.05  # share of the run that the smooth line averages over


class Metrics:
    """Appends to ``metrics.jsonl``; lines after step ``step`` are dropped first: a resumed run writes them again.

    A run that begins drops all lines.

    Args:
        folder: the output folder.
        step: number of steps that are already done.
        writing: whether this process is the one that writes.
    """

    def __init__(self, folder: Path, step: int, *, writing: bool = True) -> None:
        self._path = folder / METRICS
        self._step, self._writing = step, writing
        self._file: TextIO | None = None

    def __enter__(self) -> Metrics:
        if self._writing:
            kept = [line for line in read_metrics(self._path) if 0 < self._step >= line["step"]]
            save_text("".join(f"{json.dumps(line)}\n" for line in kept), self._path)
            self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, report: StepReport) -> None:
        """Append one step."""
        values = asdict(report)
        samples = values.pop(SAMPLES)
        line = {name: value for name, value in values.items() if name != "stop" and value is not None}
        self.note(**line, **({SAMPLES: samples} if samples else {}))

    def note(self, **line: Any) -> None:
        """Append one line; ``step`` must be in it."""
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics file that hold a step and numbers alone; none if there is no file.

    Others are left out: a kill or a full disk may cut a line short or leave bytes that are no text.
    """
    if not path.is_file():
        return []
    found = (_line_of(text) for text in path.read_bytes().split(b"\n"))
    return [line for line in found if line is not None]


def _line_of(text: bytes) -> dict[str, float] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict):
        return None
    values = cast("dict[str, object]", line)
    numbers = [value for name, value in values.items() if name != SAMPLES]
    whole = isinstance(values.get("step"), int) and all(map(_is_number, numbers)) and _are_samples(values.get(SAMPLES))
    return cast("dict[str, float]", values) if whole else None


def _are_samples(found: object) -> bool:
    if found is None:
        return True
    rows = cast("list[object]", found) if isinstance(found, list) else [None]
    return all(isinstance(row, list) and len(row) == 3 and all(map(_is_number, row)) for row in rows)  # type: ignore[reportUnknownArgumentType,reportUnknownVariableType]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def values_of(lines: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Steps that have a value of a name, and the values."""
    found = [line for line in lines if name in line]
    return [line["step"] for line in found], [line[name] for line in found]


def plot_loss(folder: Path) -> Path:
    """Draw ``loss.png`` from ``metrics.jsonl``: every step, and a moving average."""
    lines = read_metrics(folder / METRICS)
    steps, losses = values_of(lines, "loss")
    measured, held_out = values_of(lines, "validation_loss")
    figure = Figure(figsize=(7, 3.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, linewidth=0.6, alpha=0.35, color="tab:blue", label="each step")
    axes.plot(steps, moving_average(losses), linewidth=1.8, color="tab:blue", label="moving average")
    if measured:
        axes.plot(measured, held_out, "o-", markersize=3, color="tab:orange", label="pictures held out")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(folder / PLOT)
    return folder / PLOT


def moving_average(values: list[float]) -> list[float]:
    """Mean of each value and those before it, over a window of a twentieth of all."""
    width = max(1, round(len(values) * WINDOW))
    sums = [0.0, *accumulate(values)]
    return [(sums[end] - sums[max(0, end - width)]) / min(end, width) for end in range(1, len(values) + 1)]
