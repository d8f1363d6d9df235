"""What is known of a recipe's keys before any recipe is read: all their names, and which of them hold text or may be null."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from inceptionctl.recipe.schema import Recipe
from inceptionctl.recipe.variants import VARIANTS
from inceptionctl.recipe.yaml_source import KeyPath
from inceptionctl.section import Section, Tree

MEMBERS = "members"  # the key that makes a recipe one of an ensemble
ARMS = "arms"  # the same of a study
UNIONS = {Union, UnionType}


def all_keys(kind: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every key of a recipe, dotted, of all optimizers and schedules too."""
    for name, field in kind.model_fields.items():
        sections = list(VARIANTS[name].values()) if not prefix and name in VARIANTS else sections_in(field.annotation)
        if not sections:
            yield prefix + name
        yield from dict.fromkeys(key for section in sections for key in all_keys(section, f"{prefix}{name}."))


def sections_in(annotation: Any) -> list[type[Section]]:
    """The sections among the types of a key."""
    options = (annotation, *get_args(annotation))
    return [option for option in options if isinstance(option, type) and issubclass(option, Section)]


def section_class(path: KeyPath, data: Tree, root: type[BaseModel] = Recipe) -> type[BaseModel]:
    """The section at a path of a recipe that holds `data`, or of another `root` that does."""
    kind = root if path[0] in root.model_fields else Recipe
    for depth, key in enumerate(path):
        if depth == 0 and key in VARIANTS:
            variants = VARIANTS[key]
            kind = variants[data[key].get("name", next(iter(variants)))]
            continue
        kind = sections_in(kind.model_fields[key].annotation)[0]
    return kind


def is_text(path: KeyPath) -> bool:
    """Whether a key of a recipe, a member of an ensemble or an arm of a study holds text: any, or one of some words."""
    return any(_is_text(annotation) for annotation in _annotations(path))


def is_free_text(path: KeyPath) -> bool:
    """Whether a key may hold any text."""
    return any(
        str in (annotation, *get_args(annotation)) for annotation in _annotations(path) if get_origin(annotation) is not list
    )


def _is_text(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return all(isinstance(choice, str) for choice in get_args(annotation))
    options = get_args(annotation) if get_origin(annotation) in UNIONS else ()
    or_list = any(get_origin(option) is list for option in options)  # then it is YAML: [1, 2] is no word
    return annotation is str or (not or_list and any(map(_is_text, options)))


def takes_null(path: KeyPath) -> bool:
    """Whether a key may be null."""
    return any(type(None) in get_args(annotation) for annotation in _annotations(path))


def _annotations(path: KeyPath) -> Iterator[Any]:
    """Types of a key; several where it depends on the optimizer or schedule, none for a key that there is not."""
    own = path[2:] if path[:1] in ((MEMBERS,), (ARMS,)) else path
    if own == ("extends",):
        yield str
        return
    kinds: list[type[BaseModel]] = [Recipe]
    for depth, key in enumerate(own):
        fields = [kind.model_fields[key] for kind in kinds if key in kind.model_fields]
        if depth == len(own) - 1:
            yield from (field.annotation for field in fields)
        elif depth == 0 and key in VARIANTS:
            kinds = list(VARIANTS[key].values())
        else:
            kinds = [section for field in fields for section in sections_in(field.annotation)]
