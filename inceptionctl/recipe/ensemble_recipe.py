"""Ensemble recipes: several trainings, each written like a recipe, and the protocol by which they are combined.

    protocol: 144crop
    weights: {v4: 2}            # 1 for the others
    data: {root: ...}           # sections at the top apply to every member
    members:
      v4: {extends: inception_v4}
      irv2: {extends: inception_resnet_v2, train: {seed: 1}}

Later ones override earlier ones: what a member extends, the sections at the top, the member's own, `--set key`, `--set members.NAME.key`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from inceptionctl.errors import Problem
from inceptionctl.protocols import ProtocolName
from inceptionctl.recipe.keys import MEMBERS
from inceptionctl.recipe.load import (
    bundled_folder,
    examine,
    failure,
    find_recipe,
    merged,
    read_source,
    settings_source,
    with_base,
)
from inceptionctl.recipe.schema import Recipe, binding
from inceptionctl.recipe.yaml_source import Source
from inceptionctl.section import Section, Tree

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
Weight = Annotated[float, Field(ge=0.0)]


class Ensemble(Section):
    """Several networks whose class probabilities are averaged (section 5 of the paper)."""

    protocol: ProtocolName = "144crop"
    """Crops by which every member is evaluated (docs/evaluation.md)."""
    weights: dict[str, Weight] = Field(default={})
    """Weight of each member, by name; 1 for those not listed."""
    members: dict[str, Recipe]
    """The trainings, by the names of their run directories. A member may use `extends` like a recipe."""

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if len(self.members) < 2:
            raise ValueError("members must be at least two")
        for name in self.weights:
            if name not in self.members:
                raise ValueError(f"weights.{name} is not a member; members are {', '.join(self.members)}")
        if not any(self.shares):
            raise ValueError("weights are 0 for every member")
        return self

    @property
    def shares(self) -> list[float]:
        """The weight of each member, in their order."""
        return [self.weights.get(name, 1.0) for name in self.members]

    def resolved(self) -> Tree:
        """All keys, defaults included, as plain JSON values in reading order."""
        return self.model_dump(mode="json")


def is_ensemble(name: str) -> bool:
    """Whether a recipe, given by file or bundled name, is an ensemble recipe. Raises RecipeError if there is no such recipe."""
    return MEMBERS in read_source(find_recipe(name)).data


def load_ensemble(name: str, settings: Sequence[str] = ()) -> Ensemble:
    """Read an ensemble recipe with its `--set` settings, which apply to every member unless they begin with `members.NAME`.

    Raises RecipeError that carries every problem of every member, each with file:line (or the --set option) and a hint.
    """
    source, top = read_source(find_recipe(name)), settings_source(settings)
    written = source.data.get(MEMBERS, {})
    names = list(written) if isinstance(written, dict) else []
    problems = [*top.problems, *strangers(top, names), *unfit_members(source), *unfit_members(top)]
    if not isinstance(written, dict):
        raise failure(name, [*source.problems, *problems])
    recipes: dict[str, Recipe] = {}
    for member in names:
        recipe, found = examine(member_source(source, top, member), Recipe)
        problems += told_of_a_member(
            member, found, {*sections_at_top(source).lines.values(), *sections_at_top(top).lines.values()}
        )
        if recipe:
            recipes[member] = recipe
    problems += _unfit_together(source, recipes)
    whole = merged(sections_at_top(source, of_recipe=False), sections_at_top(top, of_recipe=False))
    # What is wrong with a member has been said; these stand for those with problems.
    whole.data[MEMBERS] = {member: recipes.get(member, Recipe()) for member in names}
    ensemble, found = examine(whole, Ensemble)
    problems += found
    if ensemble is None or problems:
        raise failure(name, list(dict.fromkeys(problems)))
    return ensemble


def member_source(source: Source, top: Source, name: str, group: str = MEMBERS) -> Source:
    """A member's recipe out of all layers; `group` is the key that holds the members."""
    own, set_alone = _part(source, name, group), _part(top, name, group)
    said = set_alone if "extends" in set_alone.data else own
    base, where = said.data.pop("extends", None), said.lines.pop(("extends",), "")
    own.data.pop("extends", None)
    layer = Source() if base is None else Source({"extends": base}, {("extends",): where})
    layer = with_base(layer, Path(where.rpartition(":")[0]))
    for above in (sections_at_top(source), own, sections_at_top(top), set_alone):
        layer = merged(layer, above)
    return layer


def _part(source: Source, name: str, group: str) -> Source:
    """What is written of a member alone."""
    members = source.data.get(group)
    written = members.get(name) if isinstance(members, dict) else None
    lines = {path[2:]: where for path, where in source.lines.items() if path[:2] == (group, name) and len(path) > 2}
    return Source(deepcopy(written) if isinstance(written, dict) else {}, lines)


def sections_at_top(source: Source, *, of_recipe: bool = True) -> Source:
    """The sections at the top, which apply to every member; else the other keys: the ensemble's own, and unknown ones."""
    data = {key: deepcopy(value) for key, value in source.data.items() if (key in Recipe.model_fields) == of_recipe}
    problems = [] if of_recipe else list(source.problems)
    return Source(data, {path: where for path, where in source.lines.items() if path[0] in data}, problems)


def told_of_a_member(member: str, problems: Iterable[Problem], of_all: set[str], group: str = MEMBERS) -> Iterator[Problem]:
    """Problems with the member's name before the key, except where every member has them."""
    for problem in problems:
        own = problem.where not in of_all
        yield Problem(problem.where, f"{group}.{member}.{problem.message}" if own else problem.message, problem.hint)


def strangers(top: Source, names: Sequence[str], group: str = MEMBERS) -> Iterator[Problem]:
    """Members that `--set` names but the recipe has not."""
    members = top.data.get(group, {})
    for name in members if isinstance(members, dict) else ():
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"{group} are {', '.join(names)}"
            yield Problem(top.lines[group, name], f"{group}.{name}: no such {group.removesuffix('s')}", hint)


def unfit_members(source: Source, group: str = MEMBERS) -> Iterator[Problem]:
    """Members that are invalid whatever their recipes contain."""
    members = source.data.get(group, {})
    if not isinstance(members, dict):
        yield Problem(source.lines[group,], f"{group}: {members!r} is not a mapping", "write a name and a recipe for each")
        return
    for name, written in members.items():
        where = source.lines[group, name]
        if not NAME.fullmatch(name):
            hint = "use letters, digits, - and _: it names a run directory"
            yield Problem(where, f"{group}.{name}: not a valid name", hint)
        if not isinstance(written, dict | None):
            hint = "write a recipe, or `{extends: NAME}`"
            yield Problem(where, f"{group}.{name}: {written!r} is not a recipe", hint)


def _unfit_together(source: Source, recipes: dict[str, Recipe]) -> list[Problem]:
    """Members that would be the same network, and those that cannot answer about the same classes."""
    found: list[Problem] = []
    seen: dict[str, Recipe] = {}
    for name, recipe in recipes.items():
        where = source.lines[MEMBERS, name]
        for other, before in seen.items():
            if binding(recipe.resolved()) == binding(before.resolved()):
                hint = "give it another train.seed, or remove it"
                found.append(Problem(where, f"{MEMBERS}.{name} is the same training as {MEMBERS}.{other}", hint))
            if recipe.model.num_classes != before.model.num_classes:
                counts = f"{recipe.model.num_classes} classes, {MEMBERS}.{other} has {before.model.num_classes}"
                found.append(Problem(where, f"{MEMBERS}.{name} has {counts}", "set the same model.num_classes for all"))
        seen[name] = recipe
    return found


def place_of(name: str, settings: Sequence[str], key: str, member: str = "") -> str | None:
    """Where a dotted key of a recipe, or of a member of an ensemble, has its value from; None for a default."""
    source, top = read_source(find_recipe(name)), settings_source(settings)
    layers = member_source(source, top, member) if member else merged(source, top)
    return layers.lines.get(tuple(key.split(".")))


def is_placeholder(place: str | None) -> bool:
    """Whether a value is a default or comes from a bundled recipe, so that no user has chosen it."""
    if place is None:
        return True
    file = Path(place.rpartition(":")[0])
    return not place.startswith("--set ") and file.resolve().is_relative_to(bundled_folder().resolve())
