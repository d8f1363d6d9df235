"""What is wrong with a recipe, in words: pydantic's errors as problems with a place, the key, the value and a hint."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from inceptionctl.errors import Problem
from inceptionctl.recipe.keys import all_keys, is_free_text, section_class, takes_null
from inceptionctl.recipe.schema import Recipe
from inceptionctl.recipe.synonyms import known_elsewhere
from inceptionctl.recipe.variants import VARIANTS
from inceptionctl.recipe.yaml_source import KeyPath, Source
from inceptionctl.section import Tree

RULES = {"value_error", "rule_with_hint"}
NONES = {"None", "none", "NONE"}  # not ours: null is
BOOLEANS = {**dict.fromkeys(("yes", "on", "y"), "true"), **dict.fromkeys(("no", "off", "n"), "false")}  # YAML 1.1's
NUMBER_AS_TEXT = re.compile(r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$")


def problem_of(details: ErrorDetails, source: Source, root: type[BaseModel] = Recipe) -> Problem:
    """One error of `root`'s validation as a problem of the source that was validated."""
    path = tuple(data_path(details["loc"]))
    where = _where(path, source)
    key = ".".join(path) or "recipe"
    kind, value = details["type"], details["input"]
    if kind == "extra_forbidden":
        return Problem(where, f"{key}: unknown key", _nearest_key(path, source.data, root))
    if kind == "missing":
        return Problem(where, f"{key}: missing", f"add `{path[-1]}:` to the section `{'.'.join(path[:-1])}`")
    if kind == "union_tag_invalid":
        return _tag_problem(path, where, source)
    if kind in RULES:
        return _rule_problem(path, rule_message(details), source, (details.get("ctx") or {}).get("hint"))
    if isinstance(value, str) and NUMBER_AS_TEXT.match(value):
        return Problem(where, f"{key}: {value!r} is text, not a number", "remove the quotes")
    if isinstance(value, str) and kind == "literal_error":
        hint = _instead(path, kind, value) or f"choose {details.get('ctx', {}).get('expected', '')}"
        return Problem(where, f"{key}: {value!r} is not a choice", hint)
    shown = "a section" if isinstance(value, dict) else as_yaml(value)
    return Problem(
        where, f"{key}: {shown}: {_lower(details['msg']).replace(' after validation', '')}", _instead(path, kind, value)
    )


def as_yaml(value: Any) -> str:
    """A value as a recipe has it: null, true and false for None, True and False."""
    return {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))


def _instead(path: KeyPath, kind: str, value: Any) -> str | None:
    """What to write for a value of another language than YAML 1.2, or of another type."""
    spoken = value.lower() if isinstance(value, str) else value
    if kind == "bool_type" and spoken in BOOLEANS:
        return f"write {BOOLEANS[spoken]}: YAML 1.2 only has true and false"
    if (spoken in ("none", "nil", "off", "no", "never") or value is False) and takes_null(path):
        return "write null"
    if isinstance(value, str) and spoken in ("none", "nil"):
        return "leave the key out for its default"
    if kind == "string_type" and isinstance(value, int | float | bool):
        return f"it is text: write '{as_yaml(value)}' in quotes"
    if kind == "list_type" and isinstance(value, str):
        return f"write a list: [{value}]"
    return None


def rule_message(details: ErrorDetails) -> str:
    """What a rule between keys says."""
    if details["type"] == "rule_with_hint":
        return str(details["ctx"]["message"])
    return details["msg"].removeprefix("Value error, ")


def blamed_key(path: KeyPath, message: str, source: Source) -> KeyPath:
    """The key that a rule's message opens with, relative to the section that has the rule; the section where that is not written."""
    key = (*path, *message.split()[0].rstrip(":").split("."))
    return key if key in source.lines else path


def _rule_problem(path: KeyPath, message: str, source: Source, hint: str | None = None) -> Problem:
    blamed = blamed_key(path, message, source)
    where = _where(blamed, source)
    return Problem(where, ".".join(path) + ("." if blamed != path and path else ": " if path else "") + message, hint)


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _tag_problem(path: KeyPath, where: str, source: Source) -> Problem:
    names = list(VARIANTS[path[0]])
    name = source.data[path[0]]["name"]
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"choose {' or '.join(names)}"
    return Problem(_where((*path, "name"), source), f"{path[0]}.name: {name!r} is not a choice ({', '.join(names)})", hint)


def data_path(location: tuple[int | str, ...]) -> Iterator[str]:
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


def _nearest_key(path: KeyPath, data: Tree, root: type[BaseModel]) -> str:
    section, name = path[:-1], path[-1]
    fields = list(section_class(section, data, root).model_fields if section else {**root.model_fields, **Recipe.model_fields})
    if section and section[0] in VARIANTS:
        having = [tag for tag, kind in VARIANTS[section[0]].items() if name in kind.model_fields]
        if having:
            return f"it is a key of {' and '.join(having)}; {section[0]}.name is {data[section[0]]['name']}"
    elsewhere = known_elsewhere(name, list(all_keys()))
    if elsewhere:
        return elsewhere
    close = difflib.get_close_matches(name, fields, n=1)
    return f"did you mean `{close[0]}`?" if close else f"known keys here: {', '.join(fields)}"


def rests_on(section: KeyPath, message: str, left_out: Sequence[KeyPath]) -> bool:
    """Whether a section's rule speaks of a key that was left out, and so of a default that no user has chosen."""
    words = set(re.findall(r"[\w.]+", message))
    return any(
        ".".join(key) in words
        or (key[:-1] == section and (key[-1] in words or key[-1] == "name"))
        or any(word.startswith(f"{key[-1]}.") for word in words if len(key) == 1)
        for key in left_out
    )


def nulls_as_text(source: Source) -> Iterator[Problem]:
    """Python's None where text is allowed: it would be read as a file name."""
    for path, where in source.lines.items():
        value = _value_at(source.data, path)
        if isinstance(value, str) and value in NONES and takes_null(path) and is_free_text(path):
            yield Problem(where, f"{'.'.join(path)}: {value!r} is text", "write null")


def _value_at(data: Any, path: KeyPath) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data
