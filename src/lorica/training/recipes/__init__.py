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
        found = " and ".join(recipe.name for recipe in fitting) or "none"
        raise ModelError(
            f"cannot train a {type(pipeline).__name__}: of the recipes {', '.join(RECIPES)} {found} fits; expected one."
        )
    return fitting[0](pipeline, settings)
