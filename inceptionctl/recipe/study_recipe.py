"""Recipes of studies: arms that are compared, each trained at every point of a grid with several seeds.

    study:
      seeds: [1, 2, 3]
      tune: {key: schedule.base_lr, values: [0.01, 0.03, 0.1], seeds: [0]}
      grid: {model.residual_scale: [1.0, 0.1]}
      pairs: [[without, with]]
    data: {root: ...}           # sections at the top apply to every arm
    arms:
      without: {model: {name: inception_v4}}
      with: {model: {name: inception_resnet_v2}}

Later ones override earlier ones: what an arm extends, the sections at the top, the arm's own, `--set key`, `--set arms.NAME.key`, the grid's,
the tuned value and the seed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from inceptionctl.errors import Problem
from inceptionctl.protocols import ProtocolName
from inceptionctl.recipe.ensemble_recipe import (
    Ensemble,
    is_ensemble,
    load_ensemble,
    member_source,
    sections_at_top,
    strangers,
    told_of_a_member,
    unfit_members,
)
from inceptionctl.recipe.keys import ARMS, all_keys
from inceptionctl.recipe.load import examine, failure, find_recipe, load_recipe, merged, read_source, set_in, settings_source
from inceptionctl.recipe.schema import Recipe
from inceptionctl.recipe.yaml_source import Source
from inceptionctl.section import Section, Tree

Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Counts = Annotated[dict[str, Annotated[int, Field(ge=1)]], Field(min_length=1)]


class TuneSection(Section):
    """How each arm gets a value of its own for one key: the lowest training loss at the end, on seeds that are not reported."""

    key: str = "schedule.base_lr"
    """The key that is tuned, at every point of the grid."""
    values: Annotated[list[float], Field(min_length=2)]
    """The values that are tried."""
    seeds: Seeds = Field(default=[0])
    """`train.seed` of these trainings; the median over them counts."""

    @field_validator("values")
    @classmethod
    def _values_can_be_told_apart(cls, values: list[float]) -> list[float]:
        _check_apart("tune.values", values)
        return values


class StudySection(Section):
    """What is trained and compared."""

    question: str = ""
    """What the study asks, for the page."""
    seeds: Seeds = Field(default=[1, 2, 3])
    """`train.seed` of the trainings that are reported."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default={})
    """Values by dotted key of a recipe; every arm is trained with every combination."""
    tune: TuneSection | None = None
    """Tune one key for each arm first."""
    errors: list[Annotated[float, Field(ge=0.0, le=100.0)]] = Field(default=[])
    """Top-1 errors in percent; the steps until each is reached are reported."""
    pairs: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(default=[])
    """[baseline, other]: two arms to compare seed by seed, or two ensembles."""
    ensembles: dict[str, Counts] = Field(default={})
    """Ensembles by name, each a number of networks by arm; the seeds are cut into disjoint draws of networks."""
    protocol: ProtocolName = "single"
    """Crops by which the networks of ensembles are evaluated."""
    budget_hours: Annotated[float, Field(gt=0.0)] | None = None
    """Wall-clock hours that one command may take: no training is begun that would end later, judged by the median of those that have
    finished, and no evaluation after them."""

    @property
    def num_draws(self) -> int:
        """How often every ensemble is made, each time of other networks: as often as the seeds allow; 0 without ensembles."""
        most = max((count for counts in self.ensembles.values() for count in counts.values()), default=len(self.seeds) + 1)
        return len(self.seeds) // most

    def draw(self, ensemble: str, number: int) -> list[tuple[str, int]]:
        """(arm, seed) of each network of an ensemble in a draw, counted from 0."""
        return [
            (arm, seed)
            for arm, count in self.ensembles[ensemble].items()
            for seed in self.seeds[number * count : (number + 1) * count]
        ]

    def seeds_of(self, arm: str) -> list[int]:
        """The seeds that an arm is trained with: of one that only ensembles need those that they need, else all."""
        counts = [of[arm] for of in self.ensembles.values() if arm in of]
        if not counts or any(arm in pair for pair in self.pairs):
            return self.seeds
        return self.seeds[: self.num_draws * max(counts)]

    @property
    def pairs_of_arms(self) -> list[list[str]]:
        """The pairs that are compared seed by seed."""
        return [pair for pair in self.pairs if pair[0] not in self.ensembles]

    @property
    def pairs_of_ensembles(self) -> list[list[str]]:
        """The pairs whose gain is compared with that of their members."""
        return [pair for pair in self.pairs if pair[0] in self.ensembles]

    @property
    def varied(self) -> list[str]:
        """The keys that differ between trainings of an arm, besides the seed."""
        return [*self.grid, *([self.tune.key] if self.tune else [])]

    @field_validator("grid")
    @classmethod
    def _values_can_be_told_apart(cls, grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in grid.items():
            _check_key(key)
            _check_apart(f"grid {key}", values)
        return grid

    @model_validator(mode="after")
    def _pairs_differ(self) -> Self:
        for place, pair in enumerate(self.pairs):
            if pair[0] == pair[1] or pair in self.pairs[:place]:
                said = "twice" if pair in self.pairs[:place] else "with itself"
                raise _rule(f"pairs compares {pair[0]} {said}", "remove the pair, or name two arms")
        return self

    @model_validator(mode="after")
    def _seeds_are_apart(self) -> Self:
        if self.tune:
            _check_key(self.tune.key)
            both = sorted(set(self.seeds) & set(self.tune.seeds))
            if both:
                raise _rule(f"seeds has {both}, which tune.seeds has too", "tune on seeds that are not reported")
            if self.tune.key in self.grid:
                raise _rule(f"tune.key {self.tune.key} is in grid too", "remove it from one of the two")
        for what, seeds in (("seeds", self.seeds), ("tune.seeds", self.tune.seeds if self.tune else [])):
            if len(set(seeds)) < len(seeds):
                raise _rule(f"{what} has a seed twice", "the second training would be the first again")
        return self

    @model_validator(mode="after")
    def _ensembles_have_networks(self) -> Self:
        for name, counts in self.ensembles.items():
            if sum(counts.values()) < 2:
                raise _rule(f"ensembles.{name} has one network", "an ensemble has at least two")
            arm, count = max(counts.items(), key=lambda item: item[1])
            if count > len(self.seeds):
                said = f"ensembles.{name} takes {count} networks of {arm}, but seeds has {len(self.seeds)}"
                raise _rule(said, f"give {count} seeds for one draw, {3 * count} for three")
        return self


def _rule(message: str, hint: str) -> PydanticCustomError:
    return PydanticCustomError("rule_with_hint", "{message}", {"message": message, "hint": hint})


def _check_key(key: str) -> None:
    if key == "train.seed" or key not in all_keys():
        raise _rule(f"{key} is not a key that can be varied", "write it as in `--set`, for example schedule.base_lr")


def _check_apart(what: str, values: Sequence[Any]) -> None:
    """Values with one name would be one folder, and the trainings of one count as those of the other."""
    names = [in_words(value) for value in values]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise _rule(
            f"{what} has two values that are both called {twice}", "values need names of their own: folders are called by them"
        )


class _Head(Section):
    """What a study's file says besides sections of trainings."""

    study: StudySection = StudySection()
    """What is trained and compared."""
    arms: dict[str, Any]
    """The trainings, by name."""

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        if not self.arms:
            raise _rule("arms is empty", "name the trainings that are compared: `arms: {NAME: {extends: RECIPE}, ...}`")
        ensembles, arms = self.study.ensembles, f"arms are {', '.join(self.arms)}"
        for name, counts in ensembles.items():
            if name in self.arms:
                raise _rule(f"study.ensembles.{name} has the name of an arm", "`pairs` could mean either; rename one")
            for arm in counts:
                if arm not in self.arms:
                    raise _rule(f"study.ensembles.{name} names {arm}, which is no arm", arms)
        known = f"{arms}; ensembles are {', '.join(ensembles)}" if ensembles else arms
        for pair in self.study.pairs:
            for name in pair:
                if name not in self.arms and name not in ensembles:
                    raise _rule(f"study.pairs names {name}, which is no arm{' or ensemble' if ensembles else ''}", known)
            if (pair[0] in ensembles) != (pair[1] in ensembles):
                raise _rule(f"study.pairs compares an arm and an ensemble: {', '.join(pair)}", "name two of a kind")
        return self


@dataclass(frozen=True)
class Condition:
    """An arm at a point of the grid."""

    arm: str
    at: tuple[tuple[str, Any], ...]
    """Keys and values of the grid."""
    source: Source

    @property
    def point(self) -> str:
        """The point of the grid in words: "residual_scale=0.1"; empty without a grid."""
        return ",".join(f"{key.rpartition('.')[2]}={in_words(value)}" for key, value in self.at)

    @property
    def name(self) -> str:
        """Arm and point, also as the name of a folder."""
        return f"{self.arm},{self.point}" if self.at else self.arm

    def recipe(self, seed: int, tuned: Mapping[str, float]) -> tuple[Recipe | None, list[Problem]]:
        """The training of one seed, or what is wrong with it."""
        top = Source()
        for key, value in {**tuned, "train.seed": seed}.items():
            set_in(top, tuple(key.split(".")), value, f"study: {key}")
        return examine(merged(deepcopy(self.source), top), Recipe)


def in_words(value: Any) -> str:
    """A value of the grid or the tuning as part of a file name, of at most 40 characters per item: of a path the end."""
    if isinstance(value, list | tuple):
        return "x".join(map(in_words, value))
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return re.sub(r"[^\w.+-]+", "_", str(value))[-40:]


@dataclass(frozen=True)
class Study:
    """A study as it is to be run."""

    section: StudySection
    conditions: Sequence[Condition]

    def recipe(self, condition: Condition, seed: int, value: float | None) -> Recipe:
        """The training of a condition; `value` is that of the tuned key, where one is tuned."""
        tuned = {self.section.tune.key: value} if self.section.tune and value is not None else {}
        recipe, problems = condition.recipe(seed, tuned)
        if recipe is None:  # a value that goes with no other; those of the file were checked when it was loaded
            raise failure(condition.name, problems)
        return recipe

    def resolved(self) -> Tree:
        """The study's section and the complete recipe of each condition with its first seed, as plain JSON values."""
        recipes = {name: recipe.resolved() for name, recipe in self.first_recipes().items()}
        return {"study": self.section.model_dump(mode="json"), ARMS: recipes}

    def first_recipes(self) -> dict[str, Recipe]:
        """The training of each condition with the first seed and the first value of what is tuned, by the condition's name."""
        first = self.section.tune.values[0] if self.section.tune else None
        return {one.name: self.recipe(one, self.section.seeds[0], first) for one in self.conditions}


def is_study(name: str) -> bool:
    """Whether a recipe, given by file or bundled name, is one of a study. Raises RecipeError if there is no such recipe."""
    return ARMS in read_source(find_recipe(name)).data


def load_study(name: str, settings: Sequence[str] = ()) -> Study:
    """Read a study with its `--set` settings, which apply to every arm unless they begin with `arms.NAME` or `study`.

    Raises RecipeError that carries every problem of every arm, each with file:line (or the --set option) and a hint.
    """
    source, top = read_source(find_recipe(name)), settings_source(settings)
    written = source.data.get(ARMS, {})
    names = list(written) if isinstance(written, dict) else []
    problems = [*top.problems, *strangers(top, names, ARMS), *unfit_members(source, ARMS), *unfit_members(top, ARMS)]
    whole = merged(sections_at_top(source, of_recipe=False), sections_at_top(top, of_recipe=False))
    whole.data[ARMS] = dict.fromkeys(names)
    head, found = examine(whole, _Head)
    problems += found
    if head is None:
        raise failure(name, list(dict.fromkeys(problems)))
    conditions = [one for arm in names for one in _conditions(arm, head.study, member_source(source, top, arm, ARMS), whole)]
    of_all = {*sections_at_top(source).lines.values(), *sections_at_top(top).lines.values()}
    for condition in conditions:
        for tuned in _tuned(head.study):
            _, found = condition.recipe(head.study.seeds[0], tuned)
            problems += told_of_a_member(condition.arm, found, of_all, ARMS)
    if problems:
        raise failure(name, list(dict.fromkeys(problems)))
    return Study(head.study, conditions)


def _conditions(arm: str, study: StudySection, source: Source, whole: Source) -> Iterator[Condition]:
    for values in product(*study.grid.values()):
        layer = Source()
        for key, value in zip(study.grid, values, strict=True):
            set_in(layer, tuple(key.split(".")), deepcopy(value), whole.lines.get(("study", "grid", key), f"study.grid.{key}"))
        yield Condition(arm, tuple(zip(study.grid, values, strict=True)), merged(deepcopy(source), layer))


def _tuned(study: StudySection) -> list[dict[str, float]]:
    return [{study.tune.key: value} for value in study.tune.values] if study.tune else [{}]


def load_any(name: str, settings: Sequence[str] = ()) -> Recipe | Ensemble | Study:
    """A recipe of any kind. Raises RecipeError as `load_recipe`, `load_ensemble` and `load_study` do."""
    if is_study(name):
        return load_study(name, settings)
    return load_ensemble(name, settings) if is_ensemble(name) else load_recipe(name, settings)


def trainings_of(recipe: Ensemble | Study) -> dict[str, Recipe]:
    """The trainings of a recipe of several, by name; of a study one for each condition."""
    return recipe.members if isinstance(recipe, Ensemble) else recipe.first_recipes()
