"""Studies: several arms trained with several seeds, measured and compared (recipe/study_recipe.py says what they are)."""
