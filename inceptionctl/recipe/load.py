"""From a recipe's name, file and `--set` options to a checked `Recipe`, or to every problem at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from inceptionctl.errors import Problem, RecipeError
from inceptionctl.nearby import did_you_mean
from inceptionctl.recipe.schema import Recipe
from inceptionctl.recipe.section import Section
from inceptionctl.recipe.variants import VARIANTS
from inceptionctl.recipe.yaml_source import KeyPath, Source, parse, parse_value

if TYPE_CHECKING:
    from inceptionctl.recipe.ensemble import Ensemble

MEMBERS = "members"  # the key that makes a recipe one of an ensemble
T = TypeVar("T", bound=BaseModel)
NUMBER_AS_TEXT = re.compile(r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$")


def bundled_folder() -> Path:
    """Folder of the recipes that come with inceptionctl: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "bundled_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def bundled_recipes() -> dict[str, Path]:
    """Name -> file of every recipe of one training that comes with inceptionctl, sorted."""
    return {name: path for name, path in _bundled().items() if MEMBERS not in read_source(path).data}


def bundled_ensembles() -> dict[str, Path]:
    """The same for recipes of ensembles (ensemble.py)."""
    return {name: path for name, path in _bundled().items() if MEMBERS in read_source(path).data}


def _bundled() -> dict[str, Path]:
    return {path.stem: path for path in sorted(bundled_folder().glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """The file of a recipe given by path or by bare name (`quickstart`). Raises RecipeError when there is none."""
    path = Path(name)
    if path.is_file():
        return path
    bundled = _bundled()
    stem = path.name.removesuffix(".yaml").removesuffix(".yml")
    # `recipes/inception_v4.yaml`, as the documentation writes it, also means the bundled one where no such file lies here.
    if stem in bundled and path.parent in (Path(), Path("recipes")):
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
            f"recipe '{name}' is of an ensemble, not of one training",
            f"`inceptionctl ensemble {name}` trains its members one by one and combines them",
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
    problems = list(source.problems)
    try:
        value = kind.model_validate(source.data)
    except ValidationError as error:
        return None, problems + [_problem(details, source, kind) for details in error.errors(include_url=False)]
    return (None if problems else value), problems


def recipe_from_dict(tree: Mapping[str, Any], name: str) -> Recipe:
    """A Recipe from plain values that a run or checkpoint kept. Raises RecipeError naming `name`."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        empty = Source()
        raise failure(name, [_problem(details, empty) for details in error.errors(include_url=False)]) from None


def dump_recipe(recipe: Recipe | Ensemble) -> str:
    """The complete recipe, of an ensemble too, defaults included, as YAML that loads back to the same recipe."""
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
        return f"extends: {base!r} is not a name", "give one recipe's file or bundled name"
    try:
        found = _base_path(base, path).resolve()
    except RecipeError as error:
        return f"extends: {error.message}", error.hint or ""
    if found in seen:
        chain = " -> ".join(item.name for item in (*seen, found))
        return f"extends: a circle: {chain}", "let one of them stand alone"
    return None


def merged(base: Source, top: Source) -> Source:
    """`top` over `base`, key by key; a section whose `name` changes starts anew. `base` may be changed by this."""
    for section, variants in VARIANTS.items():
        old, new = base.data.get(section), top.data.get(section)
        if isinstance(old, dict) and isinstance(new, dict) and "name" in new:
            default = next(iter(variants))
            if new["name"] != old.get("name", default):
                base.data[section] = {}
                base.lines = {path: where for path, where in base.lines.items() if path[0] != section}
    return Source(_deep_merge(base.data, top.data), {**base.lines, **top.lines}, [*base.problems, *top.problems])


def _deep_merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _deep_merge(merged[key], value) if both else value
    return merged


def settings_source(settings: Iterable[str]) -> Source:
    """`--set` options as if they were a file."""
    top = Source()
    for setting in settings:
        where = f"--set {setting}"
        dotted, equals, text = setting.partition("=")
        keys = tuple(dotted.strip().split("."))
        if not equals or not all(keys):
            top.problems.append(Problem(where, "is not of the form key.sub=value", "for example --set train.epochs=10"))
            continue
        try:
            value = parse_value(text)
        except yaml.YAMLError:
            top.problems.append(
                Problem(where, f"{dotted}: {text!r} is not a YAML value", "quote it as the shell and YAML want it")
            )
            continue
        _set_in(top, keys, value, where)
    return top


def _set_in(top: Source, keys: KeyPath, value: Any, where: str) -> None:
    here = top.data
    for key in keys[:-1]:
        step = here.setdefault(key, {})
        if not isinstance(step, dict):
            step = here[key] = {}
        here = step
    here[keys[-1]] = value
    for depth in range(1, len(keys) + 1):
        top.lines[keys[:depth]] = where


def _problem(details: ErrorDetails, source: Source, root: type[BaseModel] = Recipe) -> Problem:
    path = tuple(_data_path(details["loc"], source.data))
    where = _where(path, source)
    key = ".".join(path) or "recipe"
    kind, value = details["type"], details["input"]
    if kind == "extra_forbidden":
        return Problem(where, f"{key}: unknown key", _nearest_key(path, source.data, root))
    if kind == "missing":
        return Problem(where, f"{key}: missing", f"add `{path[-1]}:` to the section `{'.'.join(path[:-1])}`")
    if kind == "union_tag_invalid":
        return _tag_problem(path, where, source)
    if kind == "value_error":
        return _rule_problem(path, details["msg"].removeprefix("Value error, "), source)
    if kind == "rule_with_hint":
        return _rule_problem(path, details["ctx"]["message"], source, details["ctx"]["hint"])
    if isinstance(value, str) and NUMBER_AS_TEXT.match(value):
        return Problem(where, f"{key}: {value!r} is text, not a number", "write it without quotes")
    if isinstance(value, str) and kind == "literal_error":
        return Problem(where, f"{key}: {value!r} is not a choice", f"choose {details.get('ctx', {}).get('expected', '')}")
    shown = "a section" if isinstance(value, dict) else repr(value)
    return Problem(where, f"{key}: {shown}: {_lower(details['msg'])}")


def _rule_problem(path: KeyPath, message: str, source: Source, hint: str | None = None) -> Problem:
    """A rule over several keys: its message opens with the key to blame, relative to the section that has the rule."""
    blamed = (*path, *message.split()[0].rstrip(":").split("."))
    where = _where(blamed if blamed in source.lines else path, source)
    return Problem(where, ".".join(path) + ("." if blamed in source.lines and path else ": " if path else "") + message, hint)


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _tag_problem(path: KeyPath, where: str, source: Source) -> Problem:
    names = list(VARIANTS[path[0]])
    name = source.data[path[0]]["name"]
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"choose {' or '.join(names)}"
    return Problem(_where((*path, "name"), source), f"{path[0]}.name: {name!r} is not a choice ({', '.join(names)})", hint)


def _data_path(location: tuple[int | str, ...], data: Any) -> Iterator[str]:
    """The key path without the tags that pydantic puts into the location of a discriminated union."""
    parts = [str(part) for part in location]
    if len(parts) > 1 and parts[0] in VARIANTS and parts[1] in VARIANTS[parts[0]]:
        del parts[1]
    yield from parts


def _where(path: KeyPath, source: Source) -> str:
    for depth in range(len(path), 0, -1):
        if path[:depth] in source.lines:
            return source.lines[path[:depth]]
    return next(iter(source.lines.values()), "recipe")


def _nearest_key(path: KeyPath, data: dict[str, Any], root: type[BaseModel]) -> str:
    fields = list(_section_class(path[:-1], data).model_fields if path[:-1] else {**root.model_fields, **Recipe.model_fields})
    close = difflib.get_close_matches(path[-1], fields, n=1)
    return f"did you mean `{close[0]}`?" if close else f"known keys here: {', '.join(fields)}"


def _section_class(path: KeyPath, data: dict[str, Any]) -> type[BaseModel]:
    kind: type[BaseModel] = Recipe
    for depth, key in enumerate(path):
        if depth == 0 and key in VARIANTS:
            variants = VARIANTS[key]
            kind = variants[data[key].get("name", next(iter(variants)))]
            continue
        annotation = kind.model_fields[key].annotation
        options = [annotation, *get_args(annotation)]
        kind = next(option for option in options if isinstance(option, type) and issubclass(option, Section))
    return kind
