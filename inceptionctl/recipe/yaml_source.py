"""YAML with the line of every key, without YAML 1.1's surprises.

Differences from PyYAML's safe loader, each a trap met in practice: `1e-3` is a number (PyYAML: text), only true and false are
booleans (PyYAML: also no, off, ...), of two equal keys the second is an error (PyYAML: the last wins, silently), and merge keys (`<<`)
are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from inceptionctl.errors import Problem
from inceptionctl.section import Tree

KeyPath = tuple[str, ...]
MERGE_KEY = "<<"


class CoreLoader(yaml.SafeLoader):
    """The scalars of YAML 1.2's core schema."""


CoreLoader.yaml_implicit_resolvers = {}
CoreLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
CoreLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
CoreLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
CoreLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    list("-+0123456789."),
)
# PyYAML's constructor reads a leading 0 as octal; the core schema does not.
CoreLoader.add_constructor("tag:yaml.org,2002:int", lambda _loader, node: int(node.value))


@dataclass
class Source:
    """A parsed mapping: `data` is plain Python, `lines` gives `where` (file:line) of each key path, `problems` what was wrong."""

    data: Tree = field(default_factory=dict)
    lines: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def parse(text: str, name: str) -> Source:
    """Parse YAML text of the file called `name`. Never raises on bad YAML: the problem is in `problems`."""
    source = Source()
    try:
        loader = CoreLoader(text)
        try:
            node = loader.get_single_node()
            if isinstance(node, yaml.MappingNode):
                source.data = _mapping(loader, node, (), name, source)
            elif node is not None:
                source.problems.append(
                    Problem(f"{name}:1", "a recipe is a mapping of sections", "start with `model:` or `extends:`")
                )
        finally:
            loader.dispose()
    except (ValueError, RecursionError) as error:  # a scalar that its own tag cannot read, or nesting without end
        source.problems.append(
            Problem(f"{name}:1", f"not YAML: {type(error).__name__}: {str(error)[:100]}", "write plain values")
        )
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        detail = getattr(error, "problem", None) or str(error)
        source.problems.append(
            Problem(f"{name}:{line}", f"not YAML: {detail}", "check indentation, quotes and tabs near this line")
        )
    return source


def parse_value(text: str) -> Any:
    """One value as in a recipe: `1e-3`, `true`, `[0.1, 1]`. Raises yaml.YAMLError."""
    loader = CoreLoader(text)
    try:
        node = loader.get_single_node()
        value = None if node is None else loader.construct_object(node, deep=True)
        # As in a file, so that both can be merged.
        return {str(key): one for key, one in value.items()} if isinstance(value, dict) else value
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError(str(error)) from None
    finally:
        loader.dispose()


def _mapping(loader: CoreLoader, node: yaml.MappingNode, path: KeyPath, name: str, source: Source) -> Tree:
    data: Tree = {}
    for key_node, value_node in node.value:
        where = f"{name}:{key_node.start_mark.line + 1}"
        key = str(loader.construct_object(key_node, deep=True))
        here = (*path, key)
        if key == MERGE_KEY:
            hint = "write `extends: FILE` at the top of the recipe to inherit from another recipe, or write the keys out"
            source.problems.append(Problem(where, f"{'.'.join(here)}: YAML 1.2 has no merge keys", hint))
            continue
        if key in data:
            first = source.lines[here]
            source.problems.append(Problem(where, f"{'.'.join(here)}: given twice (first at {first})", "keep one of the two"))
            continue
        source.lines[here] = where
        if isinstance(value_node, yaml.MappingNode) and value_node.tag == "tag:yaml.org,2002:map":
            data[key] = _mapping(loader, value_node, here, name, source)
        else:
            data[key] = loader.construct_object(value_node, deep=True)
    return data
