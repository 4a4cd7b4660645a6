"""Files of a request: each picture with its settings as text, and sheets of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lorica.errors import FileError, escaped
from lorica.generating.infotext import FileHashes, infotext
from lorica.generating.request import Request
from lorica.generating.sampling import Shot
from lorica.generating.schedulers import sampler_name
from lorica.runtime.prompt.tags import Tag
from lorica.training.output.preview import write_picture
from lorica.training.output.sheet import contact_sheet, grid


@dataclass(frozen=True, slots=True)
class PictureWriter:
    """Writer of the pictures of one request.

    Args:
        request: the request.
        scheduler: name of the scheduler that was used.
        tags: the request's adapters, by the names that they were loaded under.
        hashes: of the files, for the text that other programs read.
    """

    request: Request
    scheduler: str
    tags: Sequence[Tag]
    hashes: Mapping[str, FileHashes]

    def write(self, shots: Sequence[Shot], pictures: Sequence[Image.Image]) -> list[Path]:
        """Write each picture, and a sheet before them if there are several."""
        output = self.request.output
        if len(pictures) == 1:
            return [self._picture(pictures[0], shots[0], output)]
        digits = len(str(len(pictures)))
        files = [_write(contact_sheet(pictures), output, self._facts(shots))]
        for number, (shot, picture) in enumerate(zip(shots, pictures, strict=True), start=1):
            files.append(self._picture(picture, shot, output.with_stem(f"{output.stem}-{number:0{digits}d}")))
        return files

    def write_comparison(self, pictures: Sequence[Sequence[Sequence[Image.Image]]]) -> Path:
        """Write one sheet: a column for each variant of the first axis, rows for the second and for the shots.

        Args:
            pictures: variant of the second axis, variant of the first, shot.
        """
        axes = [[variant.label for variant in axis.variants] for axis in self.request.grid]
        above, beside = axes[0], axes[1] if len(axes) > 1 else [""]
        rows = [list(row) for line in pictures for row in zip(*line, strict=True)]
        labels = [", ".join(filter(None, (shot, label))) for label in beside for shot in self._labels(beside)]
        sheet = grid(rows, row_labels=labels, column_labels=above)
        text = " by ".join(", ".join(labels) for labels in axes)
        return _write(sheet, self.request.output, {**self._facts(self.request.shots), "grid": text})

    def _labels(self, beside: Sequence[str]) -> list[str]:
        """What tells the shots of a row apart; nothing if there is one, and the rows have another label."""
        if len(self.request.shots) == 1 and any(beside):
            return [""]
        seeds = self.request.num > 1
        return [f"{shot.prompt} (seed {shot.seed})" if seeds else shot.prompt for shot in self.request.shots]

    def _picture(self, picture: Image.Image, shot: Shot, path: Path) -> Path:
        text = infotext(
            shot,
            self.request.settings,
            picture.size,
            sampler=sampler_name(self.scheduler),
            base=self.request.base,
            adapters=self.tags,
            hashes=self.hashes,
        )
        return _write(picture, path, {"parameters": text, **self._facts([shot])})

    def _facts(self, shots: Sequence[Shot]) -> dict[str, object]:
        request, settings = self.request, self.request.settings
        facts: dict[str, object] = {
            "prompt": "\n".join(dict.fromkeys(shot.prompt for shot in shots)),
            "negative_prompt": settings.negative_prompt or "",
            "seed": ", ".join(str(seed) for seed in dict.fromkeys(shot.seed for shot in shots)),
            "steps": settings.steps,
            "guidance": f"{settings.guidance:g}",
            "scheduler": self.scheduler,
            "base": request.base,
            "adapters": ", ".join(map(str, request.loras)),
        }
        if request.regions:
            facts["regions"] = ", ".join(f"{region.name}: {region.mask.name}" for region in request.regions)
        return facts


def _write(picture: Image.Image, path: Path, facts: Mapping[str, object]) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(picture, path, {name: escaped(str(value)) for name, value in facts.items()})
    except OSError as error:
        raise FileError(f"cannot write {path}: {error}") from error
    return path
