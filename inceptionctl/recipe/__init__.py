"""Recipes: what they may say (schema.py) and how they are read (yaml_source.py, load.py)."""

from inceptionctl.recipe.load import bundled_recipes, dump_recipe, find_recipe, load_recipe, recipe_from_dict
from inceptionctl.recipe.schema import Recipe

__all__ = ["Recipe", "bundled_recipes", "dump_recipe", "find_recipe", "load_recipe", "recipe_from_dict"]
