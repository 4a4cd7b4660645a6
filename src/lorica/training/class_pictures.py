"""Pictures of the class for prior preservation (Ruiz et al. 2022, arXiv:2208.12242), drawn by the base model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lorica.atomic import PART
from lorica.data.picture_files import count_pictures
from lorica.training.config.inputs import DataSettings
from lorica.training.output.preview import write_picture
from lorica.training.progress import Reporter
from lorica.training.recipes.recipe import Recipe, Sampling

IN_AN_EMPTY_FOLDER = 100  # as in the scripts
STEPS, GUIDANCE = 50, 7.5  # those of diffusers' pipelines


def missing_pictures(settings: DataSettings) -> int:
    """Number of pictures that have to be drawn: up to ``num_class_images``, or 100 for an empty folder.

    None are drawn without a ``class_prompt``.
    """
    if settings.class_data_dir is None or settings.class_prompt is None:
        return 0
    found = count_pictures(settings.class_data_dir)
    wanted = settings.num_class_images or (0 if found else IN_AN_EMPTY_FOLDER)
    return max(0, wanted - found)


def draw_missing(settings: DataSettings, seed: int, recipe: Recipe, side: int, reporter: Reporter) -> None:
    """Draw ``class_prompt`` into ``class_data_dir`` until no picture is missing.

    Each picture comes from a seed of its own and is written whole or not at all, so a run that was stopped while it
    drew continues as if it had not been.
    """
    folder, missing = settings.class_data_dir or Path(), missing_pictures(settings)
    prompt = settings.class_prompt or ""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f".class-*{PART}"):  # what a run was writing when it was killed
        path.unlink(missing_ok=True)
    with reporter.progress(f"drawing pictures of the class into {folder}", missing) as advance:
        for _, (number, path) in zip(range(missing), _free_paths(folder), strict=False):
            own = seed + number
            (picture,) = recipe.draw(Sampling(prompts=[prompt], seeds=[own], steps=STEPS, guidance=GUIDANCE, side=side))
            write_picture(picture, path, {"prompt": prompt, "seed": own, "steps": STEPS, "guidance": GUIDANCE})
            advance()


def _free_paths(folder: Path) -> Iterator[tuple[int, Path]]:
    number = 0
    while True:
        path = folder / f"class-{number:04d}.png"
        if not path.exists():
            yield number, path
        number += 1
