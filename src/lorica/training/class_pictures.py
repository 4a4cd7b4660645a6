"""Pictures of the class for prior preservation (Ruiz et al. 2022, arXiv:2208.12242): the base draws those that lack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator

from lorica.data.picture_files import count_pictures
from lorica.training.config.config import RunConfig
from lorica.training.dataset.sources import collect_items
from lorica.training.output.preview import write_picture
from lorica.training.progress import Reporter
from lorica.training.recipes.recipe import Recipe, Sampling
from lorica.training.setup import prepare_recipe, side_of

IN_AN_EMPTY_FOLDER = 100  # as in the scripts
STEPS, GUIDANCE = 50, 7.5  # those of diffusers' pipelines


def draw_class_pictures(config: RunConfig, accelerator: Accelerator, reporter: Reporter) -> None:
    """Draw ``class_prompt`` into ``class_data_dir`` until there are ``num_class_images``, with the base model alone.

    Without that number an empty folder gets 100, and one with pictures is left as it is. Each picture comes from a seed
    of its own and is written whole or not at all, so a run that was stopped while it drew goes on as if it had not.
    Without a ``class_prompt`` nothing is drawn.
    """
    folder, prompt = config.class_data_dir, config.class_prompt
    if folder is None or prompt is None or missing_pictures(config) == 0:
        return
    without = {"with_prior_preservation": False, "class_data_dir": None, "num_class_images": None}
    collect_items(config.model_copy(update=without), Reporter(quiet=True))  # what is wrong with them is told first
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            _draw(config, prepare_recipe(config, accelerator), folder, prompt, reporter)


def missing_pictures(config: RunConfig) -> int:
    """Return how many pictures of the class have to be drawn."""
    if config.class_data_dir is None:
        return 0
    found = count_pictures(config.class_data_dir)
    wanted = config.num_class_images or (0 if found else IN_AN_EMPTY_FOLDER)
    return max(0, wanted - found)


def _draw(config: RunConfig, recipe: Recipe, folder: Path, prompt: str, reporter: Reporter) -> None:
    missing, side = missing_pictures(config), side_of(config, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    with reporter.progress(f"drawing pictures of the class into {folder}", missing) as advance:
        for _, number in zip(range(missing), _free_numbers(folder), strict=False):
            seed = config.seed + number
            (picture,) = recipe.draw(Sampling(prompts=[prompt], seed=seed, steps=STEPS, guidance=GUIDANCE, side=side))
            waiting, path = folder / f".{_name(number)}", folder / _name(number)
            write_picture(picture, waiting, {"prompt": prompt, "seed": seed, "steps": STEPS, "guidance": GUIDANCE})
            waiting.replace(path)
            advance()


def _free_numbers(folder: Path) -> Iterator[int]:
    number = 0
    while True:
        if not (folder / _name(number)).exists():
            yield number
        number += 1


def _name(number: int) -> str:
    return f"class-{number:04d}.png"
