"""Preview pictures: the same prompts and seeds each time, so that only the adapter differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lorica.atomic import atomic_write
from lorica.training.recipes.recipe import Recipe, Sampling, evaluating

FOLDER = "previews"


def write_previews(recipe: Recipe, sampling: Sampling, folder: Path, step: int, base: str) -> list[Path]:
    """Draw one picture a prompt and write them as ``previews/step-000500-0.png``, with how they were made as text."""
    (folder / FOLDER).mkdir(exist_ok=True)
    paths: list[Path] = []
    with evaluating(recipe.components.values()):
        pictures = recipe.draw(sampling)
    for number, picture in enumerate(pictures):
        path = folder / FOLDER / f"step-{step:06d}-{number}.png"
        facts = {
            "prompt": sampling.prompts[number],
            "seed": sampling.seed + number,
            "steps": sampling.steps,
            "guidance": sampling.guidance,
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


def prompts_of(validation_prompt: str | None, captions: Sequence[str], count: int) -> list[str]:
    """Prompts of ``count`` previews: the validation prompt, or else the first captions."""
    if validation_prompt is not None:
        return [validation_prompt] * count
    return list(dict.fromkeys(captions))[:count]
