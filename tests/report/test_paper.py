"""Each row of the paper's tables names a bundled recipe of its network, and a command that measures it by the row's protocol."""

import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.recipe import Ensemble, load_any
from inceptionctl.report.paper import FIRST_TABLE, RECIPES, TABLES, PaperRow, PaperTable, all_rows, evaluation

ROOT = Path(__file__).parents[2]
ROWS = [
    pytest.param(table, row, id=f"{number}-{row.label}")
    for number, table in enumerate(TABLES, FIRST_TABLE)
    for row in table.rows
]


def parsed(line: str) -> dict[str, Any]:
    """The parameters of a command as it reads them itself."""
    program, name, *words = shlex.split(line)
    assert program == "inceptionctl"
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    return dict(command.make_context(name, words).params)


@pytest.mark.parametrize(("table", "row"), ROWS)
def test_the_recipe_is_of_the_rows_network_and_the_command_of_its_protocol(table: PaperTable, row: PaperRow) -> None:
    recipe, line = load_any(RECIPES[row.networks]), evaluation(table, row)
    # 12 crops is what the paper gives its own networks, 10 and densely is what He et al. did.
    wanted = row.protocol or table.protocol
    assert ("ResNet-152" in row.label) == (wanted in ("10crop", "dense"))
    options = parsed(line)
    if isinstance(recipe, Ensemble):
        counted = Counter(member.model.name for member in recipe.members.values())
        key = " + ".join(f"{name} x {count}" if count > 1 else name for name, count in sorted(counted.items()))
        assert (f"ensemble: {key}",) == row.networks
        assert recipe.protocol == wanted
        assert options["sources"] == [Path(RECIPES[row.networks])] and options["protocol"] is None
    else:
        assert recipe.model.name == row.networks[0]
        assert (options["protocol"], options["subset"]) == (wanted, table.subset)


def test_tables_have_the_papers_numbers() -> None:
    assert all(f"Table {number}" in table.title for number, table in enumerate(TABLES, FIRST_TABLE))


def test_recipes_list_shows_every_row() -> None:
    listed = json.loads(CliRunner().invoke(app, ["recipes", "list", "--json"]).stdout)
    assert [row for recipe in listed for row in recipe["rows"] if row["recipe"] != recipe["name"]] == []
    shown = [row for recipe in listed for row in recipe["rows"]]
    assert len(shown) == len(ROWS) and all(row in shown for row in all_rows())
    text = CliRunner().invoke(app, ["recipes", "list"], env={"COLUMNS": "200"}).stdout
    for number, expected in ((2, 5), (3, 5), (4, 5), (5, 3)):
        assert text.count(f"Table {number}: inceptionctl ") == expected


def test_lines_of_a_recipes_head_that_go_on_are_joined() -> None:
    listed = json.loads(CliRunner().invoke(app, ["recipes", "list", "--json"]).stdout)
    (head,) = [recipe for recipe in listed if recipe["name"] == "quickstart"]
    assert head["differs"].startswith("width 0.25") and head["differs"].endswith("hundreds of thousands.")


def test_the_documented_rows_are_these() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    written = re.findall(r"^\| (\d) \| (.+?) \| `(\w+)` \| `(inceptionctl .+?)` \|$", text, re.M)
    assert written == [(str(row["table"]), row["row"], row["recipe"], row["evaluation"]) for row in all_rows()]
