"""The paper's study: its cost, and its figures from trainings that were killed, made by hand: which there are, and what they show."""

import json
from pathlib import Path

import matplotlib.axes
import pytest

from inceptionctl.recipe import dump_recipe, load_study
from inceptionctl.study.cells import Cell, reported_cells
from inceptionctl.study.paper_figures import paper_figures
from tests.commands import inceptionctl

STUDY = """\
study: {seeds: [1, 2], grid: {model.residual_scale: [1.0, 0.1]}, pairs: [[a, b], [a, c]]}
model: {name: inception_resnet_v1, num_classes: 10}
evaluate: {subset: non-blacklisted}
arms: {a: {}, b: {}, c: {}}
"""


def write(cell: Cell, errors: list[float]) -> None:
    (cell.run.path / "checkpoints").mkdir(parents=True)
    (cell.run.path / "recipe.yaml").write_text(dump_recipe(cell.recipe))
    about = {"kind": "evaluate", "subset": "non-blacklisted"}
    rows = [{**about, "step": k, "epoch": k, "top1_error": error, "top5_error": 1.0} for k, error in enumerate(errors, start=1)]
    cell.run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_every_pair_at_every_point_also_of_a_killed_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, folder = tmp_path / "s.yaml", tmp_path / "out"
    file.write_text(STUDY)
    cells = reported_cells(load_study(str(file)), folder, {})
    for cell in cells:
        if cell.condition.startswith("a,") and cell.seed == 1:
            write(cell, [90, 80, 40, 30, 25, 22, 21, 20])
        elif cell.condition == "b,residual_scale=0.1":
            write(cell, [90, 70, 60 + cell.seed])  # killed in its third epoch
    made = inceptionctl("study", str(file), "--report-only", "--output", str(folder))
    assert made.returncode == 0, made.stderr
    names = {
        f"paper_{top}_{group},residual_scale={at}.png" for top in ("top1", "top5") for group in "12" for at in ("1", "0.1")
    }
    names |= {f"paper_{top}_all,residual_scale={at}.png" for top in ("top1", "top5") for at in ("1", "0.1")}
    assert {path.name for path in folder.glob("*.png")} == names
    page = (folder / "index.html").read_text()
    assert "a against b, residual_scale=0.1: Error (Top-1) %; medians at the end: a 20.00, b 61.50" in page
    limits, real = [], matplotlib.axes.Axes.set
    monkeypatch.setattr(matplotlib.axes.Axes, "set", lambda self, **to: (limits.append(to), real(self, **to))[1])
    list(paper_figures(load_study(str(file)), reported_cells(load_study(str(file)), folder, {})))
    shown = [one for one in limits if "xlim" in one]
    # Of `a` alone from an eighth of the epochs, and as high as it is after a quarter.
    assert shown[0]["xlim"] == (1.0, 8) and shown[0]["ylim"] == pytest.approx((14, 86))


def test_a_dry_run_of_the_paper_tells_its_cost_without_imagenet(tmp_path: Path) -> None:
    """16 trainings of 160 epochs; multiply-adds of a backward pass are twice those of a forward one."""
    made = inceptionctl("study", "paper", "--dry-run", "--json", "--output", str(tmp_path / "out"))
    assert made.returncode == 0, made.stderr
    planned = json.loads(made.stdout)
    assert "data/imagenet: not found, so not checked" in made.stderr
    by_arm = {row["condition"]: row for row in planned["trainings"] if row["seed"] == 1}
    assert by_arm["inception_v4"]["steps"] == 320_292 and by_arm["inception_v4"]["images"] == 320_292 * 640
    assert by_arm["inception_v4"]["multiply_adds"] == 3 * 12_253_974_624 * 320_292 * 640
    assert planned["sums"]["steps"] == 16 * 320_292
    assert planned["sums"]["multiply_adds"] == sum(4 * row["multiply_adds"] for row in by_arm.values())
    assert not (tmp_path / "out").exists()
