"""What the commands print for people: names that can be copied, values in words, and one name for one thing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from inceptionctl import console
from inceptionctl.cli import app
from tests.cli.test_runs import add_row, make_run, save
from tests.data.conftest import two_classes

NAMES = ("2026-11-27_inception-resnet-v2_a1b2c3-12", "b", "a name with blanks", "名前_2026")
ROWS = [
    (name, 12_345, "timm/resnet50.a1_in1k", "a remark of several words that may be broken between them", "1.2 MB")
    for name in NAMES
]
COLUMNS = ("run", "best step", "model", "remark", "size")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes stdout a terminal of so many columns."""

    def of(columns: int) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(columns))

    return of


def table(**options: Any) -> None:
    console.print_table("Runs under a folder whose name is longer than many a terminal is wide", COLUMNS, ROWS, **options)


@pytest.mark.parametrize("columns", [20, 40, 80, 100, 120, 200])
def test_names_are_never_broken_in_a_terminal(terminal: Any, capsys: pytest.CaptureFixture[str], columns: int) -> None:
    terminal(columns)
    table(right=("best step", "size"), whole=("run",))
    title, *lines = capsys.readouterr().out.splitlines()
    printed = "\n".join(lines)
    for name in (*NAMES, "timm/resnet50.a1_in1k", "12345", "1.2 MB"):
        assert name in printed
    assert title.endswith("than many a terminal is wide")  # in one line, which the terminal wraps
    longest = max(map(console.cell_len, (*NAMES, "model: timm/resnet50.a1_in1k")))
    assert max(map(console.cell_len, lines)) <= max(columns, longest + len(console.INDENT))


def test_a_wide_terminal_has_a_table_and_a_narrow_one_paragraphs(terminal: Any, capsys: pytest.CaptureFixture[str]) -> None:
    terminal(120)
    table(right=("best step", "size"), whole=("run",))
    assert re.search(r"^b +│ +12345 │ timm", capsys.readouterr().out, re.M)
    terminal(60)
    table(right=("best step", "size"), whole=("run",))
    paragraph = "b\n  best step: 12345, model: timm/resnet50.a1_in1k\n  remark: a remark of several words that may be broken\n"
    assert f"{paragraph}  between them, size: 1.2 MB\n" in capsys.readouterr().out


def test_nothing_is_broken_where_no_terminal_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    table()
    console.print_pairs("", [("note", "word " * 100)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + len(ROWS) + 1  # title, heads and the rule below them
    for name, line in zip(NAMES, lines[3:], strict=False):
        assert line.startswith(name) and all(str(cell) in line for cell in ROWS[0][1:])


def test_values_are_broken_between_words(terminal: Any, capsys: pytest.CaptureFixture[str]) -> None:
    terminal(30)
    path = "/a/path/that/is/longer/than/the/terminal/is/wide.txt"
    console.print_pairs("", [("images", f"418 of {path}, all of them")])
    assert capsys.readouterr().out.splitlines() == ["images  418 of", f"        {path},", "        all of them"]


def test_lists_of_runs_and_checkpoints_can_be_copied(tmp_path: Path, terminal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"2026-11-27_inception-resnet-v2_a1b2c3-{number}" for number in range(8, 12)]
    runs = [make_run(tmp_path / name, num_rows=3) for name in names]
    save(runs[0], 30)
    for columns in (40, 80, 200):
        terminal(columns)
        lines = CliRunner().invoke(app, ["runs", "list", str(tmp_path)]).stdout.splitlines()
        assert [name for name in names if any(line.split(" ")[0] == name for line in lines)] == names
        for words in (["runs", "show"], ["checkpoints", "list"]):
            assert "step-00000030" in CliRunner().invoke(app, [*words, str(runs[0].path)]).stdout
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.setenv("COLUMNS", "40")
    lines = CliRunner().invoke(app, ["runs", "list", str(tmp_path)]).stdout.splitlines()
    assert [line.split(" ")[0] for line in lines[3 : 3 + len(names)]] == names


@pytest.mark.parametrize("words", [["recipes", "list"], ["models", "list"]])
def test_names_of_recipes_and_networks_can_be_copied(terminal: Any, words: list[str]) -> None:
    names = [one["name"] for one in json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)]
    terminal(40)
    lines = CliRunner().invoke(app, words).stdout.splitlines()
    assert [name for name in names if not any(line.split(" ")[0] == name for line in lines)] == []


def test_no_dictionary_is_printed(tmp_path: Path) -> None:
    root = two_classes(tmp_path / "data")
    keys = ("model.num_classes=2", f"data.root={root}", "train.zero_stage=1", "train.global_batch_size=8")
    settings = [word for key in keys for word in ("--set", key)]
    plan = CliRunner().invoke(app, ["train", "inception_v4", *settings, "--dry-run", "--gpus", "2"])
    assert plan.exit_code == 0, plan.output
    assert " name=rmsprop, decay=0.9, epsilon=1, momentum=0.9," in plan.stdout
    assert "zero_optimization.stage=1" in plan.stdout and "timers.throughput.enabled=false" in plan.stdout
    run = make_run(tmp_path / "a")
    add_row(
        run,
        kind="train",
        step=10,
        epoch=0.5,
        loss=2.0,
        peak_memory_bytes=1_136_484_352,
        activation_rms={"stem.conv_1": 0.12345, "b": "nan"},
    )
    shown = CliRunner().invoke(app, ["runs", "show", str(run.path)])
    assert re.search(r"^activation rms +stem\.conv_1=0\.123, b=nan$", shown.stdout, re.M), shown.output
    assert re.search(r"^peak memory +1\.1 GB$", shown.stdout, re.M)
    for answer in (plan, shown):
        assert not re.search(r"[{}]|\bNone\b", answer.stdout)


def test_no_number_stands_for_never(tmp_path: Path) -> None:
    words = ["train", "inception_v4", "--set", "train.zero_stage=1", "--dry-run", "--gpus", "20", "--json"]
    plan = json.loads(CliRunner().invoke(app, words).stdout)
    assert [key for key, value in leaves(plan["deepspeed"]) if isinstance(value, int) and value >= 2**31 - 1] == []


def leaves(tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        yield from leaves(value) if isinstance(value, dict) else [(key, value)]


def options() -> dict[str, set[str]]:
    """Whether each visible option takes a value or is a switch, over all commands."""
    found: dict[str, set[str]] = {}

    def walk(command: Any) -> None:
        for one in getattr(command, "commands", {}).values():
            walk(one)
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                for name in parameter.opts:
                    found.setdefault(name, set()).add("switch" if parameter.is_flag else "value")

    walk(get_command(app))
    return found


def test_an_option_is_of_one_kind_in_all_commands() -> None:
    found = options()
    assert {name: kinds for name, kinds in found.items() if len(kinds) > 1} == {}
    assert "--output" in found and not {"--out", "--outdir", "--output-dir", "-o"} & set(found)


def test_what_an_option_was_called_is_taken_and_said(tmp_path: Path) -> None:
    words = ["bench", "start", "quickstart", "--gpus", "--set", f"data.root={tmp_path}", "--ranks", "0"]
    assert "--on-gpus" not in CliRunner().invoke(app, [*words[:-1], "x"]).stderr  # a number that is none is told first
    answer = CliRunner().invoke(app, [*words[:-1], "1"])
    assert "warning: --gpus was renamed to --on-gpus" in answer.stderr and answer.exit_code == 4
