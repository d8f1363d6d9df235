"""Recipes: what they may say (schema.py, ensemble_recipe.py, study_recipe.py) and how they are read (yaml_source.py, load.py)."""

from inceptionctl.recipe.ensemble_recipe import Ensemble, is_ensemble, load_ensemble
from inceptionctl.recipe.load import (
    bundled_ensembles,
    bundled_recipes,
    bundled_studies,
    dump_recipe,
    find_recipe,
    load_recipe,
    recipe_from_dict,
)
from inceptionctl.recipe.schema import Recipe
from inceptionctl.recipe.study_recipe import Study, is_study, load_any, load_study, trainings_of

__all__ = [
    "Ensemble",
    "Recipe",
    "Study",
    "bundled_ensembles",
    "bundled_recipes",
    "bundled_studies",
    "dump_recipe",
    "find_recipe",
    "is_ensemble",
    "is_study",
    "load_any",
    "load_ensemble",
    "load_recipe",
    "load_study",
    "recipe_from_dict",
    "trainings_of",
]
