"""What the wheel takes of the tree, by the rule in pyproject.toml; scripts/wheel builds, installs and runs it."""

import tomllib
from pathlib import Path

import pytest

from inceptionctl.bench import machine_facts

ROOT = Path(__file__).resolve().parents[1]
WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
NOT_SHIPPED = {"tests", "scripts", "build", "dist", "runs", "data"}  # and what .gitignore names


def packages() -> list[Path]:
    """Every folder with an __init__.py outside those that are not shipped."""
    top = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".") and path.name not in NOT_SHIPPED]
    return [file.parent for path in top for file in path.rglob("__init__.py")]


def test_the_rule_finds_every_package_and_the_recipes() -> None:
    found = packages()
    assert ROOT / "inceptionctl" / "scaling" in found and ROOT / "pipelines" in found
    shipped = set(WHEEL["only-include"])
    assert {path.relative_to(ROOT).parts[0] for path in found} | {"recipes"} == shipped
    assert WHEEL["sources"] == {"recipes": "inceptionctl/bundled_recipes"}
    # Neither packages nor .gitignore's lines are listed by hand, and nothing but hidden files is left out.
    assert WHEEL["ignore-vcs"] is True and WHEEL["exclude"] == [".*"] and "include" not in WHEEL and "packages" not in WHEEL


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {file.parent for name in ("inceptionctl", "pipelines") for file in (ROOT / name).rglob("*.py")}
    assert [path for path in sorted(folders) if not (path / "__init__.py").exists()] == []


def test_figures_of_an_installed_package_name_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where it would lie in an environment: a folder that is no clone.
    monkeypatch.setattr(machine_facts.inceptionctl, "__path__", [str(tmp_path / "inceptionctl")])
    monkeypatch.setattr(machine_facts.inceptionctl, "__version__", "7.8.9")
    found = machine_facts.facts([])
    assert found["commit"] is None
    assert machine_facts.in_words(found).endswith("; version 7.8.9")
