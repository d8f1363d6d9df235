"""The tables of the documentation site, as scripts/docs makes them: nothing of the schema or the command line is left out."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command

from inceptionctl.cli import app
from inceptionctl.recipe.keys import all_keys
from inceptionctl.recipe.schema import Recipe
from inceptionctl.recipe.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "site" / "reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines() if line.startswith("| `")
    ]


def test_every_key_of_a_recipe_has_a_row_with_type_default_and_meaning(reference: ModuleType) -> None:
    sections = dict(part.split("\n", 1) for part in re.split(r"^## ", reference.recipe_keys(), flags=re.M)[1:])
    assert list(sections) == [*Recipe.model_fields, "Ensembles"]
    for key in all_keys():
        section, name = key.split(".", 1)
        if name == "name" and section in VARIANTS:
            assert all(f"### {section}.name: {variant}\n" in sections[section] for variant in VARIANTS[section])
            continue
        found = [row for row in rows(sections[section]) if row[0] == f"`{name}`"]
        assert found and all(len(row) == 4 and all(row) for row in found), key


@pytest.mark.parametrize(
    ("key", "kind", "default"),
    [
        ("`max_steps`", "integer ≥ 1 or null", "null"),
        ("`augment.crop_area`", "[number, number]", "`[0.05, 1.0]`"),
        ("`zero_stage`", "`0`, `1`", "`0`"),
        ("`members`", "mapping", "required"),
    ],
)
def test_types_and_defaults_are_those_of_the_schema(reference: ModuleType, key: str, kind: str, default: str) -> None:
    assert [kind, default] in [row[1:3] for row in rows(reference.recipe_keys()) if row[0] == key]


def test_text_with_angle_brackets_is_no_tag(reference: ModuleType) -> None:
    plain = re.sub(r"`[^`]*`", "", reference.recipe_keys() + reference.commands())
    assert "train/&lt;class>/" in plain and not re.search(r"<(?!/?div)", plain)


def test_every_command_has_a_heading_and_every_option_a_row(reference: ModuleType) -> None:
    written = dict(part.split("\n", 1) for part in re.split(r"^## ", reference.commands(), flags=re.M)[1:])
    leaves = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        leaves += [(f"{name} {word}", inner) for word, inner in getattr(command, "commands", {}).items()] or [(name, command)]
    assert list(written) == [name for name, command in leaves if not command.hidden]
    for name, command in leaves:
        first = [row[0] for row in rows(written[name])]
        shown = [parameter for parameter in command.params if not parameter.hidden]
        assert len(first) == len(shown), name
        for parameter in shown:
            if parameter.param_type_name == "option":
                assert any(f"`{parameter.opts[0]}" in cell for cell in first), (name, parameter.opts)


def test_every_page_has_a_place_on_the_site() -> None:
    nav = re.findall(r"\b([\w-]+\.md)$", (ROOT / "scripts/site/mkdocs.yml").read_text(), flags=re.M)
    assert sorted(nav) == sorted({*(page.name for page in (ROOT / "docs").glob("*.md")), "CHANGELOG.md", "CONTRIBUTING.md"})
