"""Where a key of a recipe was written: file:line, or the --set option."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inceptionctl.recipe.ensemble import member_source
from inceptionctl.recipe.load import bundled_folder, find_recipe, merged, read_source, settings_source


def place_of(name: str, settings: Sequence[str], key: str, member: str = "") -> str | None:
    """Where a dotted key of a recipe, or of a member of an ensemble, has its value from; None for a default."""
    source, top = read_source(find_recipe(name)), settings_source(settings)
    layers = member_source(source, top, member) if member else merged(source, top)
    return layers.lines.get(tuple(key.split(".")))


def is_placeholder(place: str | None) -> bool:
    """Whether a value is nobody's choice: a default, or one of a recipe that comes with inceptionctl."""
    if place is None:
        return True
    file = Path(place.rpartition(":")[0])
    return not place.startswith("--set ") and file.resolve().is_relative_to(bundled_folder().resolve())
