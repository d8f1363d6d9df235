"""`runs compare`: what differs between recipes, and where the curves end."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.recipe import recipe_from_dict
from inceptionctl.run import Run, create_run
from tests.cli.test_runs import add_row, save


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["runs", "compare", *map(str, arguments)], env={"COLUMNS": "200"})


def compared(*runs: Run) -> dict[str, Any]:
    result = invoke(*(run.path for run in runs), "--json")
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def made(path: Path, recipe: dict[str, Any]) -> Run:
    """Two starts: rows 60 s and 120 s after the first, 30 s after the second."""
    run = create_run(path, recipe_from_dict(recipe, "test"))
    starts = [{"started": f"2026-08-22T1{hour}:00:00+00:00", "host": "node7"} for hour in (0, 1)]
    run.environment_file.write_text(json.dumps(starts))
    first = 1787392800.0  # 2026-08-22T10:00:00 UTC
    for number, after in enumerate((60, 120, 3630), start=1):
        at = {"step": number * 10, "epoch": number / 2, "time": first + after}
        add_row(run, kind="train", **at, loss=3.0 - number / 2, images_per_second=(40.0, 100.0, 110.0)[number - 1])
        add_row(run, kind="evaluate", **at, top1_error=(50.0, 20.0, 30.0)[number - 1], loss=1.0, subset="all")
    return run


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Run, Run]:
    """Of other optimizers, lengths and seeds."""
    a = made(tmp_path / "a", {"optim": {"name": "sgd", "momentum": 0.9}})
    b = made(tmp_path / "b", {"optim": {"name": "adamw"}, "train": {"seed": 3}})
    return a, b


def test_keys_that_differ_and_no_others(runs: tuple[Run, Run]) -> None:
    a, b = map(str, (run.path for run in runs))
    found = {item["key"]: item["values"] for item in compared(*runs)["differences"]}
    assert found["train.seed"] == {a: 0, b: 3}
    assert found["optim.name"] == {a: "sgd", b: "adamw"}
    assert found["optim.momentum"] == {a: 0.9}  # AdamW has no such key
    assert not [key for key in found if not key.startswith("optim.") and key != "train.seed"]


def test_ends_of_the_curves(runs: tuple[Run, Run]) -> None:
    save(runs[0], 30, total_steps=40)
    a, b = compared(*runs)["runs"]
    assert (a["step"], a["total_steps"], a["epoch"], a["state"], a["last_loss"]) == (30, 40, 1.5, "stopped", 1.5)
    assert (a["last_validation"]["step"], a["last_validation"]["top1_error"]) == (30, 30.0)
    assert (a["best_validation"]["step"], a["best_validation"]["top1_error"]) == (20, 20.0)
    assert a["images_per_second"] == 100.0 and a["seconds"] == 150.0  # not the hour in between
    assert b["total_steps"] is None and b["problems"] == []


def test_for_people(runs: tuple[Run, Run]) -> None:
    printed = invoke(*(run.path for run in runs))
    assert printed.exit_code == 0, printed.output
    cells = {line.split("│")[0].strip(): [cell.strip() for cell in line.split("│")] for line in printed.stdout.splitlines()}
    assert cells["a"][2:] == ["30 / ?", "1.50", "1.5000", "30.00 at 30", "20.00 at 20", "100.0", "2:30"]
    assert cells["train.seed"][1:] == ["0", "3"]
    assert cells["optim.momentum"][1:] == ["0.9", "-"]
    assert "model.name" not in cells


def test_three_runs_two_of_one_name(runs: tuple[Run, Run], tmp_path: Path) -> None:
    third = made(tmp_path / "more/a", {"optim": {"name": "sgd", "momentum": 0.9}})
    values = {item["key"]: list(item["values"].values()) for item in compared(*runs, third)["differences"]}
    assert values["train.seed"] == [0, 3, 0]
    printed = invoke(*(run.path for run in (*runs, third))).stdout
    assert re.search(rf"^{third.path} +│", printed, re.MULTILINE) and re.search(rf"^{runs[0].path} +│", printed, re.MULTILINE)


def test_equal_recipes_say_so(runs: tuple[Run, Run], tmp_path: Path) -> None:
    third = made(tmp_path / "c", {"optim": {"name": "sgd", "momentum": 0.9}})
    assert compared(runs[0], third)["differences"] == []
    assert "the recipes are the same" in invoke(runs[0].path, third.path).stdout


def test_damaged_runs_are_shown_as_far_as_they_can_be_read(runs: tuple[Run, Run], tmp_path: Path) -> None:
    a, b = runs
    text = b.recipe_file.read_text()
    b.recipe_file.write_text(text.replace("train:\n", "train:\n  invented: 1\n"))  # of another version
    lost = made(tmp_path / "lost", {"train": {"seed": 7}})
    save(lost, 10)
    lost.recipe_file.unlink()
    lost.environment_file.write_text("[{")
    empty = tmp_path / "empty"
    (empty / "checkpoints").mkdir(parents=True)
    found = compared(a, b, lost, Run(empty))
    seeds = next(item["values"] for item in found["differences"] if item["key"] == "train.seed")
    assert seeds == {str(a.path): 0, str(b.path): 3, str(lost.path): 7}
    told = {item["name"]: item for item in found["runs"]}
    assert "train.invented: unknown key" in told["b"]["problems"][0]
    assert told["lost"]["seconds"] is None and told["lost"]["last_loss"] == 1.5
    assert told["empty"]["state"] == "broken" and told["empty"]["best_validation"] is None
    printed = invoke(a.path, b.path, lost.path, empty)
    assert printed.exit_code == 0 and "lost: recipe.yaml is missing" in printed.stdout, printed.output


def test_rows_without_numbers(runs: tuple[Run, Run]) -> None:
    a, b = runs
    add_row(a, kind="train", step=40, epoch=2.0, loss=float("nan"))
    add_row(a, kind="evaluate", step=40, epoch=2.0, top1_error="?", subset="non-blacklisted")
    found = compared(a, b)["runs"][0]
    assert (found["step"], found["last_loss"], found["last_validation"]["step"]) == (40, 1.5, 30)
    assert invoke(a.path, b.path).exit_code == 0


def test_one_run_and_no_run_are_refused(runs: tuple[Run, Run], tmp_path: Path) -> None:
    alone = invoke(runs[0].path, runs[0].path)
    assert alone.exit_code == 2 and f"hint: inceptionctl runs show {runs[0].path}" in alone.stderr
    absent = invoke(runs[0].path, tmp_path / "none")
    assert absent.exit_code == 5 and "no run directory" in absent.stderr
