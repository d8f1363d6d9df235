"""--help: every value has a name that says what it is, and no sentence is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from typer.core import TyperGroup

_NAMES = {
    **dict.fromkeys(("int", "integer", "integer range"), "N"),
    **dict.fromkeys(("float", "float range"), "X"),
    **dict.fromkeys(("Path", "path", "file", "directory"), "PATH"),
    **dict.fromkeys(("str", "text"), "TEXT"),
}


class Group(TyperGroup):
    """A command group whose list of commands has each first sentence whole."""

    def __init__(self, *args: Any, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        for command in self.commands.values():
            for parameter in command.params:
                parameter.metavar = parameter.metavar or _name_of_value(parameter)
                if parameter.param_type_name == "argument":
                    _show_plainly(parameter, str(parameter.metavar))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands with their first sentences, on as many lines as these take."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(10_000)) for name, command in self.commands.items()])


def _name_of_value(parameter: Any) -> str | None:
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    if getattr(parameter, "is_flag", False):
        return None
    # Typer's own in newer versions, click's in older ones.
    described = getattr(parameter, "type_descriptor", None) or parameter.type
    if getattr(described, "is_choice", False):
        return "|".join(str(getattr(choice, "value", choice)) for choice in described.choices)
    kind = getattr(described, "annotation", None)
    for part in (kind, *get_args(kind)):
        name = _NAMES.get(getattr(part, "__name__", ""))
        if name:
            return name
    return _NAMES.get(getattr(described, "name", ""))


def _show_plainly(argument: Any, name: str) -> None:
    """Newer versions of Typer write `{NAME}` into the usage and `NAME <str>` into the list."""
    argument.display_type_rich = lambda ctx: None
    argument._usage_display_name = lambda: name if argument.required else f"[{name}]"


def command_of(group: Any, words: Sequence[str]) -> Any | None:
    """The command that the words of a command line name; None where they name none."""
    command = group
    for word in words:
        if not hasattr(command, "commands"):
            break
        if not word.startswith("-"):
            command = command.commands.get(word)
            if command is None:
                return None
    return None if hasattr(command, "commands") else command
