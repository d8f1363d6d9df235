"""--help of every command: no sentence is cut, and every value has a name for people."""

import re

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from inceptionctl.cli import app


def pages() -> list[str]:
    """Every command line that has a page of help."""
    found = [""]
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        found += [name, *(f"{name} {sub}" for sub in command.commands)] if isinstance(command, TyperGroup) else [name]
    return found


@pytest.mark.parametrize("words", pages())
def test_help_has_whole_sentences_and_names_of_values(words: str) -> None:
    page = CliRunner().invoke(app, [*words.split(), "--help"], env={"COLUMNS": "80"}).stdout
    listed = page.partition("\nCommands:\n")[2]
    assert page.startswith("Usage: ") and not re.search(r"\w\.\.\.$", listed, re.M)
    # `step-...` and `RUN...` are words; <int range>, <str>, {recipe} and a lower-case argument are the parser's.
    assert not re.search(r"<(int|float|str|path|bool|file)\b[^>]*>|\{\w+\}|<\w+\|", page)
    assert not re.search(r"^Usage: .*\[OPTIONS\].*\s\[?[a-z]{3,}\b", page, re.M)


def test_the_list_of_commands_has_first_sentences_whole() -> None:
    page = CliRunner().invoke(app, ["bench", "--help"], env={"COLUMNS": "80"}).stdout
    text = " ".join(page.split())
    assert "two results of one bench side by side: medians, their ratio, and whether the ranges overlap." in text.lower()
