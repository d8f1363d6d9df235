"""Hints in the words of the command that prints them: who finds an error does not know which options there are."""

from __future__ import annotations

import re
from typing import Any

_SETTING = re.compile(r"`--set ([\w.]+)=([^`]+)`")
_DATA_SET = {"root": "ROOT", "source": "SRC"}  # arguments that name a data set


def worded_for(command: Any | None, hint: str | None) -> str | None:
    """A hint with each `--set KEY=VALUE` as what the command has for it: --set, another option, an argument, or the recipe's key."""
    if hint is None or command is None:
        return hint
    options = {name for parameter in command.params for name in parameter.opts}
    arguments = {parameter.name for parameter in command.params if parameter.param_type_name == "argument"}
    return _SETTING.sub(lambda found: _in_words(found[1], found[2], options, arguments, command.name), hint)


def _in_words(key: str, value: str, options: set[str], arguments: set[str], verb: str) -> str:
    if key == "data.root" and verb in ("check", "pack") and arguments & _DATA_SET.keys():
        return f"the argument {next(_DATA_SET[name] for name in _DATA_SET if name in arguments)}"
    if "--set" in options and not (key == "data.root" and "--data" in options and "source" in arguments):  # which may be a run
        return f"`--set {key}={value}`"
    option = "--data" if key == "data.root" else f"--{key.rpartition('.')[2].replace('_', '-')}"
    return f"`{option} {value}`" if option in options else f"`{key}: {value}` in the recipe"
