#!/usr/bin/env python3
"""Write the tables of the documentation site that are read from the code: reference.py FOLDER

FOLDER/recipe-keys.md has every key of a recipe with its type, default and docstring; FOLDER/commands.md has every command with
its help, arguments and options. mkdocs puts them into docs/recipe-reference.md and docs/command-reference.md (hooks.py).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from inceptionctl.cli import app
from inceptionctl.recipe.ensemble_recipe import Ensemble
from inceptionctl.recipe.schema import Recipe

TYPES = {
    "integer": "integer",
    "number": "number",
    "string": "text",
    "boolean": "`true` or `false`",
    "null": "null",
    "object": "mapping",
}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def recipe_keys() -> str:
    """Markdown: a heading a section, a table row a key."""
    whole = Recipe.model_json_schema()
    parts = []
    for name, schema in whole["properties"].items():
        parts.append(f"## {name}\n\n{schema['description']}\n")
        if "oneOf" not in schema:
            parts.append(_table(_rows(_resolved(schema, whole), whole)))
            continue
        for variant in schema["oneOf"]:
            section = _resolved(variant, whole)
            choice = section["properties"]["name"]["const"]
            default = "The default. " if choice == schema["default"]["name"] else ""
            parts.append(f"### {name}.name: {choice}\n\n{default}{_linked(section['description'])}\n")
            parts.append(_table(row for row in _rows(section, whole) if row[0] != "`name`"))
    ensemble = Ensemble.model_json_schema()
    parts.append(
        "## Ensembles\n\nKeys of a recipe with `members`; every section above may stand beside them, and is then every member's.\n"
    )
    parts.append(_table(_rows(ensemble, ensemble)))
    return "\n".join(parts)


def _rows(section: dict[str, Any], whole: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    for key, schema in section["properties"].items():
        nested = _resolved(schema, whole)
        if "properties" in nested:
            yield from _rows(nested, whole, f"{prefix}{key}.")
            continue
        default = f"`{json.dumps(schema['default'])}`" if "default" in schema else "required"
        if schema.get("default", "") is None:
            default = "null"
        yield f"`{prefix}{key}`", _type(schema, whole), default, schema.get("description", "")


def _resolved(schema: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = whole["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
    return found


def _type(schema: dict[str, Any], whole: dict[str, Any]) -> str:
    schema = _resolved(schema, whole)
    if "anyOf" in schema:
        return " or ".join(_type(option, whole) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if "prefixItems" in schema:
        return f"[{', '.join(_type(item, whole) for item in schema['prefixItems'])}]"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'], whole)}"
    bounds = " and ".join(f"{sign} {schema[key]:g}" for key, sign in BOUNDS.items() if key in schema)
    return f"{TYPES[schema['type']]} {bounds}".strip()


def commands() -> str:
    """Markdown: a heading a command, a table row an argument or option."""
    return "\n".join(part for name, command in _leaves(get_command(app), "inceptionctl") for part in _command(name, command))


def _leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, inner in command.commands.items():
        if not inner.hidden:
            yield from _leaves(inner, f"{name} {word}")


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option" and not parameter.hidden]
    words = " ".join(_argument(argument) for argument in arguments)
    yield (
        f"## {name.removeprefix('inceptionctl ')}\n\n```text\n{name} {'[OPTIONS] ' * bool(options)}{words}".rstrip() + "\n```\n"
    )
    yield f"{_linked(command.help or '')}\n"
    rows = [(f"`{argument.metavar}`", argument.help or "", "required" if argument.required else "") for argument in arguments]
    rows += [(_option(option), option.help or "", _default(option)) for option in options]
    yield _table(rows, ("argument or option", "meaning", "default"))


def _argument(argument: Any) -> str:
    word = f"{argument.metavar}..." if argument.nargs == -1 and not argument.metavar.endswith("...") else argument.metavar
    return word if argument.required else f"[{word}]"


def _option(option: Any) -> str:
    value = "" if option.is_flag else f" {option.metavar or ''}"
    return ", ".join(f"`{name}{value}`".replace(" `", "`") for name in (*option.opts, *option.secondary_opts))


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if option.is_flag or option.default is None or callable(option.default):
        return ""
    value = option.default
    return f"`{' '.join(map(str, value)) if isinstance(value, list | tuple) else value}`"


def _table(rows: Any, titles: tuple[str, ...] = ("key", "type", "default", "meaning")) -> str:
    lines = [titles, ("---",) * len(titles), *rows]
    table = "\n".join("| " + " | ".join(_linked(" ".join(cell.split())) for cell in line) + " |" for line in lines)
    return f'<div class="stacked" markdown>\n\n{table}\n\n</div>\n'  # on a phone a row becomes a paragraph (docs/site.css)


def _linked(text: str) -> str:
    """Plain words of the code as Markdown: no tag where `<class>` is meant, no column at a `|`, and pages of docs/ as links."""
    parts = re.split(r"(`[^`]*`)", text)
    for index in range(0, len(parts), 2):
        plain = parts[index].replace("<", "&lt;").replace("*", "\\*").replace("|", "&#124;")
        parts[index] = re.sub(r"docs/(\w+)\.md", r"[\1](\1.md)", plain)
    return "".join(parts)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe-keys.md").write_text(recipe_keys(), encoding="utf-8")
    (folder / "commands.md").write_text(commands(), encoding="utf-8")
