"""The documents say what is there: every command documented, every documented command understood, every link whole."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.core import TyperGroup
from typer.main import get_command

from inceptionctl.cli import app
from inceptionctl.errors import InceptionctlError
from inceptionctl.models import MODELS, build_model
from inceptionctl.models.summary import count_parameters, multiply_adds
from inceptionctl.recipe import load_any

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    found = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        found += [f"{name} {sub}" for sub in command.commands] if isinstance(command, TyperGroup) else [name]
    return found


def documented() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS), re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    for path in DOCUMENTS:
        lines += re.findall(r"`(inceptionctl [^`\n]*)`", path.read_text(encoding="utf-8"))
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        text = re.search(r"^# command: (.*)$", recipe.read_text(encoding="utf-8"), re.M)
        lines += text.group(1).split(" && ") if text else []
    return sorted(
        {line[line.index("inceptionctl ") :] for line in lines if "inceptionctl " in line and "/inceptionctl" not in line}
    )


@pytest.mark.parametrize("name", commands())
def test_every_command_is_in_the_list_of_commands(name: str) -> None:
    assert f"`inceptionctl {name}" in (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", documented())
def test_every_documented_command_is_understood(line: str) -> None:
    words = shlex.split(re.sub(r"[\[\]]|\.\.\.", "", line), comments=True)[1:]
    command = get_command(app)
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no command {words[0]!r} in: {line}"
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in options, f"no option {word} in: {line}"


def test_the_table_of_networks_is_the_codes() -> None:
    text = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    written = {row[0]: row[1:5] for row in re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \| (\S+) \| (\S+) \| ", text, re.M)}
    expected = {}
    for name, spec in MODELS.items():
        with torch.device("meta"):
            model = build_model(name, num_classes=1000, aux_head=None if spec.aux_head is None else True)
        head = getattr(model, "aux_head", None)
        of_head = count_parameters(head) if head is not None else 0
        expected[name] = (
            str(spec.default_input_px),
            f"{count_parameters(model) - of_head:,}",
            f"{of_head:,}" if of_head else "-",
            f"{multiply_adds(model, spec.default_input_px):,}",
        )
    assert written.items() <= expected.items() and len(written) >= 16


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "recipes.md").read_text(), re.S))
def test_documented_pieces_of_recipes_load(block: str, tmp_path: Path) -> None:
    (tmp_path / "piece.yaml").write_text(block, encoding="utf-8")
    load_any(str(tmp_path / "piece.yaml"))


def test_something_is_documented() -> None:
    assert len(documented()) > 15 and len(commands()) > 12


def test_exit_codes_are_listed() -> None:
    table = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for code in (0, 1, *(kind.exit_code for kind in InceptionctlError.__subclasses__()), "130, 143"):
        assert f"\n| {code} | " in table


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_are_whole(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target
