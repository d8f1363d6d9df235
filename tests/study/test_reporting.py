"""What `inceptionctl study` says of trainings that are there: run directories made by hand, which nobody trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inceptionctl.recipe import dump_recipe, load_study
from inceptionctl.study.cells import Cell, choose, doubts, reported_cells, tuning_cells
from inceptionctl.train.checkpoint_files import FILES, seal, step_folder
from tests.commands import TINY, inceptionctl, refused, sets
from tests.data.conftest import two_classes
from tests.study.test_study_ensembles import ANSWERS, saved

RECIPE = """\
study:
  seeds: [1, 2]
  tune: {values: [0.1, 0.2, 0.4]}
  pairs: [[a, b]]
model: {name: inception_resnet_v1, num_classes: 2}
train: {max_steps: 3}
arms: {a: {}, b: {model: {shortcut: false}}}
"""
BEGAN = 1.75e9
LOSSES = {0.1: 3.0, 0.2: 1.0, 0.4: 2.0}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "s.yaml").write_text(RECIPE)
    return tmp_path / "s.yaml"


def tuning(file: Path) -> list[Cell]:
    return tuning_cells(load_study(str(file), TINY), file.parent / "out")


def reported(file: Path, value: float | None = 0.2, settings: tuple[str, ...] = ()) -> list[Cell]:
    study = load_study(str(file), [*TINY, *settings])
    return reported_cells(study, file.parent / "out", {} if value is None else {one.name: value for one in study.conditions})


def words(file: Path, *settings: str) -> tuple[str, ...]:
    return ("study", str(file), *sets(*TINY, *settings), "--cpu-ranks", "1", "--output", str(file.parent / "out"))


def finished(cell: Cell, loss: float = 1.0, seconds: float = 60.0) -> None:
    """A training of three steps, as far as anybody looks who does not want its weights."""
    begun(cell)
    checkpoint = step_folder(cell.run.checkpoints, 3)
    checkpoint.mkdir()
    for name in FILES:
        (checkpoint / name).write_text(name)
    progress = {"recipe": cell.recipe.resolved(), "step": 3, "total_steps": 3}
    (checkpoint / "progress.json").write_text(json.dumps(progress))
    seal(checkpoint)
    (cell.run.checkpoints / "latest").write_text(checkpoint.name)
    rows = [{"kind": "train", "step": step, "epoch": step, "loss": loss, "time": BEGAN + seconds} for step in (1, 2, 3)]
    cell.run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def diverged(cell: Cell) -> None:
    begun(cell, ended={"exit_code": 6})


def begun(cell: Cell, **start: object) -> None:
    run = cell.run
    run.checkpoints.mkdir(parents=True)
    run.recipe_file.write_text(dump_recipe(cell.recipe))
    started = "2025-06-15T15:06:40+00:00"  # BEGAN
    run.environment_file.write_text(json.dumps([{"started": started, **start}]))


def result_of(file: Path) -> dict[str, object]:
    return dict(json.loads((file.parent / "out/study.json").read_text()))


def test_a_report_needs_a_finished_tuning_of_what_it_reports(file: Path) -> None:
    for cell in tuning(file):
        if cell.condition == "a" or cell.value != 0.4:
            finished(cell, LOSSES[cell.value or 0.0])
    command = words(file)
    nothing = inceptionctl(*command, "--report-only")
    assert nothing.returncode == 75, nothing.stderr
    assert "1 training of the tuning is not done, and there is nothing to report\ntrain first: inceptionctl" in nothing.stderr
    assert "--report-only" not in nothing.stderr and not (file.parent / "out/index.html").exists()
    # Both were trained with the best of the first two values.
    for cell in reported(file):
        finished(cell)
    made = inceptionctl(*command, "--report-only")
    assert made.returncode == 0, made.stderr
    assert "1 training of the tuning is not done, so b cannot be reported yet" in made.stderr
    assert "--report-only" not in made.stderr and "2 trainings not done yet" in made.stderr
    told = [(one["name"], one["tuned"], len(one["trainings"]), one["unfinished"]) for one in result_of(file)["conditions"]]  # type: ignore[attr-defined]
    assert told == [("a", 0.2, 2, 0), ("b", None, 0, 2)]


ENSEMBLES = ("study.tune=null", "study.ensembles={both: {a: 1, b: 1}}", "study.seeds=[1]")


def evaluated(cell: Cell, images: tuple[str, ...]) -> None:
    cell.run.evaluations.mkdir(exist_ok=True)
    file = saved(cell.run.evaluations / "step-00000003_ema_single.parquet", ANSWERS["a", 1], images)
    told = {"data_root": str(cell.recipe.data.root_path), "subset": "all", "scales": None}
    file.with_suffix(".json").write_text(json.dumps(told))


def test_trainings_are_reported_also_where_their_evaluation_fails(file: Path) -> None:
    cells = reported(file, None, ENSEMBLES)
    for cell in cells:
        finished(cell)
    made = inceptionctl(*words(file, *ENSEMBLES, "data.root=nowhere"))
    assert made.returncode == 3, made.stderr  # the files are no weights, and there are no images
    assert "`evaluate` of a, seed 1 ended with exit code 3" in made.stderr
    result = result_of(file)
    assert [len(one["trainings"]) for one in result["conditions"]] == [1, 1]  # type: ignore[attr-defined]
    assert result["ensembles"]["ensembles"][0]["unfinished"] == 1  # type: ignore[index]
    page = file.parent / "out/index.html"
    assert "1 not evaluated yet" in page.read_text()
    # Evaluations of different images have no mean.
    page.unlink()
    for cell, images in zip(cells, ("0123", "012x"), strict=True):
        evaluated(cell, tuple(images))
    refused(inceptionctl(*words(file, *ENSEMBLES)), 3, "b, seed 1 are of different images")
    assert result_of(file)["ensembles"] is None and page.exists()


def test_a_budget_knows_how_long_the_tuning_took(file: Path) -> None:
    for cell in tuning(file):
        finished(cell, LOSSES[cell.value or 0.0], seconds=3600.0)
    images = two_classes(file.parent / "images")
    made = inceptionctl(*words(file, "study.budget_hours=0.5", f"data.root={images}"))
    assert made.returncode == 0, made.stderr
    assert "and the next training takes about 1:00:00, so none is started" in made.stderr
    assert "4 trainings not done yet" in made.stderr and (file.parent / "out/index.html").exists()


def test_a_budget_holds_for_evaluations(file: Path) -> None:
    for cell in reported(file, None, ENSEMBLES):
        finished(cell)
    made = inceptionctl(*words(file, *ENSEMBLES, "study.budget_hours=1e-9"))
    assert made.returncode == 0, made.stderr
    assert "study.budget_hours is 1e-09, and none of it is left: 2 evaluations not begun" in made.stderr
    assert "evaluation 1 of" not in made.stderr and "1 not evaluated yet" in (file.parent / "out/index.html").read_text()


def test_a_tuning_that_found_no_best_value_says_so(file: Path) -> None:
    for cell in tuning(file):
        diverged(cell) if cell.condition == "a" else finished(cell, 1.0 / (cell.value or 0.0))
    for cell in [*reported(file, 0.1), *reported(file, 0.4)]:
        if (cell.condition == "a") is (cell.value == 0.1):
            finished(cell)
    made = inceptionctl(*words(file))
    assert made.returncode == 0, made.stderr
    page = (file.parent / "out/index.html").read_text()
    for doubt, hint in (
        (
            "schedule.base_lr: half or more of the trainings died at every value, and the lowest was taken: a (0.1)",
            "lower",
        ),
        ("schedule.base_lr: the highest value tried was chosen, and the best may lie beyond: b (0.4)", "higher"),
    ):
        assert f"warning: {doubt}\nhint: add {hint} values to study.tune.values" in made.stderr and doubt in page
    # That adds trainings to the tuning, and those that are there stay what they are.
    images = two_classes(file.parent / "images")
    more = (*words(file, "study.tune.values=[0.05, 0.1, 0.2, 0.4, 0.8]", f"data.root={images}"), "--dry-run", "--json")
    planned = inceptionctl(*more)
    assert planned.returncode == 0, planned.stderr
    states = [(row["purpose"], row["state"]) for row in json.loads(planned.stdout)["trainings"]]
    assert states.count(("tuning", "not started")) == 4 and states.count(("reported", "finished")) == 4


def test_reasons_to_doubt_a_tuning() -> None:
    losses: dict[str, dict[float, list[float | None]]] = {
        "low": {0.1: [1.0], 0.2: [2.0]},
        "fine": {0.1: [2.0], 0.2: [1.0], 0.4: [None]},
        "half dead": {0.1: [1.0, None], 0.2: [None, None]},
        "one dead": {0.1: [3.0, 3.0, 3.0], 0.2: [1.0, None, 1.0], 0.4: [2.0, 2.0, 2.0]},
    }
    found = doubts("k", losses, choose(losses))
    assert [doubt.partition(": ")[2] for doubt in found] == [
        "the lowest value tried was chosen, and the best may lie beyond: low (0.1)",
        "half or more of the trainings died at every value, and the lowest was taken: half dead (0.1)",
    ]
    assert set(found.values()) == {"add lower values to study.tune.values"}
