"""From a recipe's name, file and `--set` options to a checked `Recipe`, or to every problem at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from inceptionctl.errors import Problem, RecipeError
from inceptionctl.nearby import did_you_mean
from inceptionctl.recipe.keys import ARMS, MEMBERS, is_text
from inceptionctl.recipe.problems import RULES, blamed_key, data_path, nulls_as_text, problem_of, rests_on, rule_message
from inceptionctl.recipe.schema import Recipe
from inceptionctl.recipe.variants import VARIANTS
from inceptionctl.recipe.yaml_source import KeyPath, Source, parse, parse_value
from inceptionctl.section import Tree

if TYPE_CHECKING:
    from inceptionctl.recipe.ensemble_recipe import Ensemble
    from inceptionctl.recipe.study_recipe import Study

T = TypeVar("T", bound=BaseModel)


def bundled_folder() -> Path:
    """Folder of the recipes that come with inceptionctl: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "bundled_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def bundled_recipes() -> dict[str, Path]:
    """Name -> file of every recipe of one training that comes with inceptionctl, sorted."""
    return {name: path for name, path in _bundled().items() if not {MEMBERS, ARMS} & read_source(path).data.keys()}


def bundled_ensembles() -> dict[str, Path]:
    """The same for ensemble recipes (ensemble_recipe.py)."""
    return {name: path for name, path in _bundled().items() if MEMBERS in read_source(path).data}


def bundled_studies() -> dict[str, Path]:
    """The same for studies (study_recipe.py)."""
    return {name: path for name, path in _bundled().items() if ARMS in read_source(path).data}


def _bundled() -> dict[str, Path]:
    folder = bundled_folder()
    return {path.stem: path for path in sorted((*folder.glob("*.yaml"), *folder.glob("studies/*.yaml")))}


def find_recipe(name: str) -> Path:
    """The file of a recipe given by path or by bare name (`quickstart`). Raises RecipeError when there is none."""
    path = Path(name)
    if path.is_file():
        return path
    bundled = _bundled()
    stem = path.name.removesuffix(".yaml").removesuffix(".yml")
    # `recipes/inception_v4.yaml`, as the documentation writes it, also means the bundled one where no such file lies here.
    if stem in bundled and path.parent in (Path(), Path("recipes"), Path("recipes/studies")):
        return bundled[stem]
    if path.is_dir():
        raise RecipeError(
            f"'{name}' is a folder, not a recipe", "name a .yaml file or a bundled recipe: `inceptionctl recipes list`"
        )
    close = difflib.get_close_matches(stem, bundled, n=1)
    # Who writes a path or a suffix means a file, and one of another name is worth more than a bundled recipe.
    guess = did_you_mean(path) if path.name != stem or path.parent != Path() else ""
    guess = guess or (f"did you mean `{close[0]}`? " if close else "")
    raise RecipeError(
        f"no recipe '{name}': neither a file nor a bundled name", f"{guess}`inceptionctl recipes list` shows the bundled ones"
    )


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe with its `extends` chain and `--set key.sub=value` settings.

    Raises RecipeError that carries every problem, each with file:line (or the --set option) and a hint.
    """
    source = read_source(find_recipe(name))
    if MEMBERS in source.data:
        raise RecipeError(
            f"recipe '{name}' is an ensemble, not a single training",
            f"`inceptionctl ensemble {name}` trains its members one by one and combines them",
        )
    if ARMS in source.data:
        raise RecipeError(
            f"recipe '{name}' is a study, not a single training",
            f"`inceptionctl study {name}` trains its arms and compares them",
        )
    return _checked(source, settings, name)


def default_recipe(settings: Sequence[str] = ()) -> Recipe:
    """The defaults of every key, changed by `--set` settings. Raises RecipeError as `load_recipe` does."""
    return _checked(Source(), settings, "of defaults")


def _checked(source: Source, settings: Sequence[str], name: str) -> Recipe:
    recipe, problems = examine(merged(source, settings_source(settings)), Recipe)
    if recipe is None:
        raise failure(name, problems)
    return recipe


def examine(source: Source, kind: type[T]) -> tuple[T | None, list[Problem]]:
    """(what a source says, everything that is wrong with it); the former only where nothing is."""
    for section, variants in VARIANTS.items():
        if isinstance(source.data.get(section), dict):
            source.data[section].setdefault("name", next(iter(variants)))
    problems = [*source.problems, *nulls_as_text(source)]
    try:
        value = kind.model_validate(source.data)
    except ValidationError as error:
        return None, [*problems, *_all_problems(error, source, kind)]
    return (None if problems else value), problems


def _all_problems(error: ValidationError, source: Source, kind: type[BaseModel]) -> list[Problem]:
    """Also those of rules between keys, which pydantic looks at only where every key of a section is right by itself."""
    problems: list[Problem] = []
    rest, left_out = Source(deepcopy(source.data), source.lines), list[KeyPath]()
    while True:
        blamed = []
        for details in error.errors(include_url=False):
            path, rule = tuple(data_path(details["loc"])), details["type"] in RULES
            if details["type"] == "missing" and any(path == left[: len(path)] for left in left_out):
                continue  # it is there, and has its own problem
            if not rule or not rests_on(path, rule_message(details), left_out):
                problems.append(problem_of(details, source, kind))
            key = blamed_key(path, rule_message(details), rest) if rule else path
            # Without its name a section could not be read.
            blamed.append(key[:1] if key[1:] == ("name",) and key[0] in VARIANTS else key)
        were_there = [_leave_out(rest.data, path) for path in blamed]
        left_out += blamed
        try:
            kind.model_validate(rest.data)
        except ValidationError as again:
            error = again
        else:
            were_there = []
        if not any(were_there):
            return list(dict.fromkeys(problems))


def _leave_out(data: Any, path: KeyPath) -> bool:
    """Take a key out, or the nearest section around it that is there; whether there was one."""
    for depth in range(len(path), 0, -1):
        here = data
        for key in path[: depth - 1]:
            here = here.get(key) if isinstance(here, dict) else None
        if isinstance(here, dict) and path[depth - 1] in here:
            del here[path[depth - 1]]
            return True
    return False


def recipe_from_dict(tree: Mapping[str, Any], name: str) -> Recipe:
    """A Recipe from plain values that a run or checkpoint kept. Raises RecipeError naming `name`."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        empty = Source()
        raise failure(name, [problem_of(details, empty) for details in error.errors(include_url=False)]) from None


def dump_recipe(recipe: Recipe | Ensemble | Study) -> str:
    """The complete recipe, of an ensemble or a study too, defaults included, as YAML that loads back to the same recipe."""
    return yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True, width=120)


def failure(name: str, problems: Sequence[Problem]) -> RecipeError:
    """All problems of a recipe as one error, in the order of the lines."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return RecipeError(f"recipe '{name}' has {count}", problems=sorted(problems, key=_place))


def _place(problem: Problem) -> tuple[str, int]:
    file, _, line = problem.where.rpartition(":")
    return (file, int(line)) if line.isdigit() else (problem.where, 0)


def read_source(path: Path, seen: tuple[Path, ...] = ()) -> Source:
    """A recipe's file over those that it extends; `seen` are the files that lead to it. Raises RecipeError when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read recipe {path}: {error}", "a recipe is a UTF-8 text file") from None
    return with_base(parse(text, str(path)), path, seen)


def with_base(source: Source, path: Path, seen: tuple[Path, ...] = ()) -> Source:
    """What is written in the file `path` over what its `extends` names."""
    base = source.data.pop("extends", None)
    where = source.lines.pop(("extends",), f"{path}:1")
    if base is None:
        return source
    problem = _extends_problem(base, path, (*seen, path.resolve()))
    if problem:
        source.problems.append(Problem(where, *problem))
        return source
    return merged(read_source(_base_path(str(base), path), (*seen, path.resolve())), source)


def _base_path(base: str, path: Path) -> Path:
    beside = path.parent / base
    return beside if beside.is_file() else find_recipe(base)


def _extends_problem(base: Any, path: Path, seen: tuple[Path, ...]) -> tuple[str, str] | None:
    if not isinstance(base, str):
        return f"extends: {base!r} is not a name", "name one recipe, by file or bundled name"
    try:
        found = _base_path(base, path).resolve()
    except RecipeError as error:
        return f"extends: {error.message}", error.hint or ""
    if found in seen:
        chain = " -> ".join(item.name for item in (*seen, found))
        return f"extends: circular: {chain}", "remove `extends` from one of them"
    return None


def merged(base: Source, top: Source) -> Source:
    """`top` over `base`, key by key; a section whose `name` changes is reset to its defaults. `base` may be changed by this.

    The licence of a data set is that of its `data.root`: where `top` names another, the one in `base` is not the new one's.
    """
    old, new = _root(base), _root(top)
    if old and new and old != new and isinstance(base.data.get("export"), dict):
        base.data["export"].pop("data_license", None)
    for section, variants in VARIANTS.items():
        old, new = base.data.get(section), top.data.get(section)
        if isinstance(old, dict) and isinstance(new, dict) and "name" in new:
            default = next(iter(variants))
            if new["name"] != old.get("name", default):
                base.data[section] = {}
                base.lines = {path: where for path, where in base.lines.items() if path[0] != section}
    return Source(_deep_merge(base.data, top.data), {**base.lines, **top.lines}, [*base.problems, *top.problems])


def _root(source: Source) -> Any:
    data = source.data.get("data")
    return data.get("root") if isinstance(data, dict) else None


def _deep_merge(base: Tree, top: Tree) -> Tree:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _deep_merge(merged[key], value) if both else value
    return merged


def settings_source(settings: Iterable[str]) -> Source:
    """`--set` options as if they were a file; of a key that holds text all that follows the = is its value."""
    top = Source()
    for setting in settings:
        where = f"--set {setting}"
        dotted, equals, text = setting.partition("=")
        keys = tuple(dotted.strip().split("."))
        if not equals or not all(keys):
            top.problems.append(Problem(where, "is not of the form key.sub=value", "for example --set train.epochs=10"))
            continue
        try:
            value = text if is_text(keys) and text not in ("", "~", "null") else parse_value(text)
        except yaml.YAMLError:
            top.problems.append(
                Problem(where, f"{dotted}: {text!r} is not a YAML value", "quote it for the shell and for YAML")
            )
            continue
        set_in(top, keys, value, where)
    return top


def set_in(top: Source, keys: KeyPath, value: Any, where: str) -> None:
    """Set a key of a source, and the place of it and of the sections around it."""
    here = top.data
    for key in keys[:-1]:
        step = here.setdefault(key, {})
        if not isinstance(step, dict):
            step = here[key] = {}
        here = step
    here[keys[-1]] = value
    for depth in range(1, len(keys) + 1):
        top.lines[keys[:depth]] = where
