"""What page and command say of a study whose runs were made by hand: which seeds a number is of, and what could not be read."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from typing import Any

import pytest

from inceptionctl.cli.study import _over_seeds
from inceptionctl.recipe import dump_recipe, load_study
from inceptionctl.study.cells import Cell, reported_cells, tuning_cells
from inceptionctl.study.measures import paired
from inceptionctl.study.page import _render
from inceptionctl.train import checkpoint_files
from tests.commands import inceptionctl

STUDY = """\
study:
  seeds: [1, 2, 3]
  tune: {values: [0.01, 0.1], seeds: [0]}
  errors: [40]
  pairs: [[a, b]]
model: {name: inception_resnet_v1, num_classes: 2}
arms: {a: {}, b: {}}
"""
END = 8
# Top-1 errors at steps 4 and 8. The third seed of b died, with a mean loss far below all others.
ERRORS = {("a", 1): (45, 30), ("a", 2): (35, 32), ("a", 3): (39, 34), ("b", 1): (38, 28), ("b", 2): (50, 33), ("b", 3): None}


def write(cell: Cell, errors: tuple[float, ...] | None) -> None:
    """A run directory with validations at steps 4 and 8, or one that died at step 4."""
    rows = [{"kind": "train", "step": k, "epoch": k, "loss": 1.0 + cell.seed / 10} for k in (4, END)]
    rows += [
        {"kind": "evaluate", "step": k, "epoch": k, "top1_error": error, "top5_error": 0.0, "num_images": 400}
        for k, error in zip((4, END), errors or (), strict=False)
    ]
    checkpoint = cell.run.checkpoints / f"step-{END:08d}"
    checkpoint.parent.mkdir(parents=True)
    cell.run.recipe_file.write_text(dump_recipe(cell.recipe))
    if errors is None:
        rows = [{"kind": "train", "step": 4, "epoch": 4, "loss": 0.1, "zero_share": 1.0}]
        cell.run.environment_file.write_text(json.dumps([{"ended": {"exit_code": 6}}]))
    else:
        checkpoint.mkdir()
        progress = {"step": END, "total_steps": END, "recipe": cell.recipe.resolved()}
        for name in checkpoint_files.FILES:
            (checkpoint / name).write_text(json.dumps(progress) if name == "progress.json" else "")
        checkpoint_files.seal(checkpoint)
    cell.run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))


Reported = tuple[str, str, dict[str, Any], str]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """(stdout, stderr, study.json, page) of a study of which one training died, one has a damaged file and one of the tuning lost it."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "s.yaml").write_text(STUDY, encoding="utf-8")
    study = load_study(str(folder / "s.yaml"))
    for cell in tuning_cells(study, folder / "out"):
        write(cell, (50, 50))
        if (cell.condition, cell.value) == ("b", 0.1):
            cell.run.metrics_file.unlink()
    for cell in reported_cells(study, folder / "out", {"a": 0.01, "b": 0.01}):
        write(cell, ERRORS[cell.condition, cell.seed])
        if (cell.condition, cell.seed) == ("a", 2):
            cell.run.metrics_file.write_text(f"#\n{cell.run.metrics_file.read_text()}")
    made = inceptionctl("study", folder / "s.yaml", "--report-only", "--output", folder / "out")
    assert made.returncode == 0, made.stderr
    page = (folder / "out/index.html").read_text()
    return made.stdout, made.stderr, json.loads((folder / "out/study.json").read_text()), page


def test_differences_are_of_the_seeds_that_lived_in_both_arms(reported: Reported) -> None:
    stdout, _, result, page = reported
    assert {one["measure"]: (one["n"], one["trained"]) for one in result["differences"]} == dict.fromkeys(
        ("final_error", "best_error", "final_loss", "mean_loss"), (2, 3)
    )
    of_both = "over 2 of 3 seeds: those with both trainings to the end"
    assert f"b less a, final error: -0.500 (-2.000 to 1.000 {of_both})" in stdout
    assert f"b less a, mean loss: 0.000 (0.000 to 0.000 {of_both})" in stdout
    differences = page.partition("<h2>Differences</h2>")[2].partition("</table>")[0]
    assert '<td class="n">2 of 3</td>' in differences and "-0.50 (-2.00 to 1.00)</td>" in differences
    # The table of conditions has the mean loss of the dead one: of 1.1, 1.2 and 0.1 the median is 1.1.
    assert result["conditions"][1]["summaries"]["mean_loss"]["n"] == 3 and "1.100 (0.100 to 1.200)" in stdout


def test_who_never_reached_an_error_is_told_of(reported: Reported) -> None:
    stdout, _, _, page = reported
    assert "4 (4 to 8)" in stdout and "4 (4 to 8), " not in stdout  # all of a
    assert "8 (4 to 8), 2 of 3" in stdout and "8 (4 to 8), 2 of 3" in page


def test_the_interval_of_the_median_is_that_of_its_training(reported: Reported) -> None:
    _, _, result, page = reported
    a, b = result["conditions"]
    assert a["error_interval"] == a["trainings"][1]["final_error_interval"]
    # Of 28 and 33 the median, 30.5, is nobody's.
    assert b["summaries"]["final_error"]["median"] == 30.5 and b["error_interval"] is None
    for one in b["trainings"][:2]:
        low, high = one["final_error_interval"]
        assert f"{one['final_error']:.3f} [{low:.1f} to {high:.1f}]" in page


def test_what_cannot_be_read_is_told_of(reported: Reported) -> None:
    _, stderr, result, page = reported
    assert [re.sub(r".*/out/", "", problem) for problem in result["problems"]] == [
        "tuning/b/0.1_seed-0: the training has finished, but metrics.jsonl has no training loss; the tuning counts it as died",
        "runs/a/seed-2: metrics.jsonl: line 1 is no row of numbers",
    ]
    for problem in result["problems"]:
        assert f"warning: {problem}" in stderr and f"<strong>Problem:</strong> {problem}</p>" in page


def test_an_interval_takes_the_place_of_lowest_and_highest(reported: Reported) -> None:
    result = deepcopy(reported[2])
    one = result["differences"][0]
    one.update(paired(dict.fromkeys(range(6), 0.0), {k: float(k) for k in range(6)}, ("a", "b"), "final_error"))
    low, high = one["interval"]
    assert f"2.50 [{low:.2f} to {high:.2f}]</td>" in _render(result, [])
    assert _over_seeds(one) == f"95% between {low:.3f} and {high:.3f} over 6 seeds"
    assert _over_seeds(paired({1: 0.0}, {1: 1.0}, ("a", "b"), "final_error")) == "over 1 seed"
