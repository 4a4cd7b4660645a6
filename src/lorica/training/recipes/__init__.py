"""The training of each family of base models: one family a file."""

from __future__ import annotations

from typing import Any

from lorica.errors import ModelError
from lorica.training.recipes.recipe import Recipe, RecipeSettings
from lorica.training.recipes.sd import StableDiffusion

RECIPES: dict[str, type[Recipe]] = {recipe.name: recipe for recipe in (StableDiffusion,)}


def load_recipe(pipeline: Any, settings: RecipeSettings) -> Recipe:
    """The recipe for a pipeline.

    Raises:
        ModelError: if no recipe, or more than one, fits the pipeline.
    """
    fitting = [recipe for recipe in RECIPES.values() if recipe.fits(pipeline)]
    if len(fitting) != 1:
        known = " and ".join(recipe.title for recipe in RECIPES.values())
        parts = ", ".join(name for name, part in getattr(pipeline, "components", {}).items() if part is not None)
        raise ModelError(
            f"this version trains {known}, for text to image. The base model is a {type(pipeline).__name__} "
            f"(with {parts or 'no parts'}), which it cannot train; adapters for it can be loaded, run and converted."
        )
    return fitting[0](pipeline, settings)
