"""Preview pictures: the same prompts and seeds each time, so that only the adapter differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lorica.atomic import atomic_write
from lorica.run_files import PREVIEWS
from lorica.training.output.sheet import grid
from lorica.training.recipes.recipe import Recipe, Sampling, evaluating

SHEET = "steps.png"
MOST_ROWS = 12  # of a sheet over steps


def write_previews(recipe: Recipe, sampling: Sampling, folder: Path, step: int, base: str) -> list[Path]:
    """Draw one picture a prompt and write them as ``previews/step-000500-0.png``, with how they were made as text."""
    (folder / PREVIEWS).mkdir(exist_ok=True)
    paths: list[Path] = []
    with evaluating(recipe.components.values()):
        pictures = recipe.draw(sampling)
    for number, picture in enumerate(pictures):
        path = folder / PREVIEWS / f"step-{step:06d}-{number}.png"
        facts = {
            "prompt": sampling.prompts[number],
            "seed": sampling.seeds[number],
            "steps": sampling.steps,
            "guidance": sampling.guidance,
            **({"negative prompt": sampling.negative} if sampling.negative else {}),
            "base": base,
            "adapters": f"{folder.resolve().name}, step {step}",
        }
        write_picture(picture, path, facts)
        paths.append(path)
    return paths


def write_picture(picture: Image.Image, path: Path, facts: Mapping[str, object]) -> None:
    """Write a PNG file with ``facts`` as text in it, whole or not at all."""
    text = PngInfo()
    for name, value in facts.items():
        shown = str(value)  # where both can hold it, the older kind of text, which more programs read
        (text.add_text if shown.isascii() else text.add_itxt)(name, shown)
    with atomic_write(path, sync=False) as waiting:
        picture.save(waiting, "PNG", pnginfo=text)


def previews_of(prompts: Sequence[str], captions: Sequence[str], count: int, seed: int) -> list[tuple[str, int]]:
    """Prompt and seed of each preview: ``count`` of every prompt, from the same seeds, or else the first captions."""
    if prompts:
        return [(prompt, seed + number) for prompt in prompts for number in range(count)]
    return [(caption, seed + number) for number, caption in enumerate(list(dict.fromkeys(captions))[:count])]


def write_sheet(folder: Path, prompts: Sequence[str]) -> Path | None:
    """Draw all previews on ``previews/steps.png``, a row a step; None as long as there is one step alone.

    Of many steps, ``MOST_ROWS`` are shown, from the first to the last.
    """
    found: dict[int, list[tuple[int, Path]]] = {}
    for path in sorted((folder / PREVIEWS).glob("step-*-*.png")):
        _, step, number = path.stem.split("-")
        found.setdefault(int(step), []).append((int(number), path))
    steps = sorted(found)
    if len(steps) < 2:
        return None
    shown = sorted({steps[round(row * (len(steps) - 1) / (MOST_ROWS - 1))] for row in range(MOST_ROWS)})
    rows = [[open_picture(path) for _, path in sorted(found[step])] for step in shown]
    sheet = grid(rows, row_labels=[f"step {step}" for step in shown], column_labels=list(prompts))
    write_picture(sheet, folder / PREVIEWS / SHEET, {"prompts": " | ".join(dict.fromkeys(prompts))})
    return folder / PREVIEWS / SHEET


def open_picture(path: Path) -> Image.Image:
    """A preview that was written."""
    with Image.open(path) as picture:
        return picture.convert("RGB")
