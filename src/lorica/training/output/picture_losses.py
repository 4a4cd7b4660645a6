"""Loss of each picture over a run: which pictures are learnt least, and may be wrong."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from lorica.formats.storage.files import save_text
from lorica.run_files import METRICS
from lorica.training.output.metrics import SAMPLES, read_metrics

LOSSES = "losses.csv"
LEVELS = 10  # parts of the noise schedule: a loss is compared with those at about the same noise


class PictureLoss(NamedTuple):
    """A picture, how often it was seen, its mean loss, and that over the mean of all pictures at the same noise."""

    picture: str
    samples: int
    loss: float
    relative: float


def picture_losses(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[PictureLoss]:
    """The loss of each picture that was seen, from the lines of ``metrics.jsonl``; the highest relative one first."""
    seen = [sample for line in lines for sample in line.get(SAMPLES, ()) if int(sample[0]) < len(names)]
    if not seen:
        return []
    last = max(time for _, time, _ in seen) + 1
    by_level: dict[int, list[float]] = defaultdict(list)
    by_picture: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for picture, time, loss in seen:
        level = int(time * LEVELS / last)
        by_level[level].append(loss)
        by_picture[int(picture)].append((level, loss))
    usual = {level: fmean(losses) or 1.0 for level, losses in by_level.items()}
    found = [
        PictureLoss(
            names[picture],
            len(drawn),
            fmean(loss for _, loss in drawn),
            fmean(loss / usual[level] for level, loss in drawn),
        )
        for picture, drawn in by_picture.items()
    ]
    return sorted(found, key=lambda row: -row.relative)


def write_picture_losses(folder: Path, names: Sequence[str]) -> list[PictureLoss]:
    """Write ``losses.csv`` and return its rows."""
    rows = picture_losses(read_metrics(folder / METRICS), names)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(PictureLoss._fields)
    table.writerows((row.picture, row.samples, f"{row.loss:.6g}", f"{row.relative:.4g}") for row in rows)
    save_text(text.getvalue(), folder / LOSSES)
    return rows
