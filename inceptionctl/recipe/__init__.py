"""Recipes: what they may say (schema.py, ensemble_recipe.py) and how they are read (yaml_source.py, load.py)."""

from inceptionctl.recipe.ensemble_recipe import Ensemble, is_ensemble, load_any, load_ensemble
from inceptionctl.recipe.load import (
    bundled_ensembles,
    bundled_recipes,
    dump_recipe,
    find_recipe,
    load_recipe,
    recipe_from_dict,
)
from inceptionctl.recipe.schema import Recipe

__all__ = [
    "Ensemble",
    "Recipe",
    "bundled_ensembles",
    "bundled_recipes",
    "dump_recipe",
    "find_recipe",
    "is_ensemble",
    "load_any",
    "load_ensemble",
    "load_recipe",
    "recipe_from_dict",
]
