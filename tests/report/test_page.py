"""The report of runs: whole, self-contained, true to the files, and readable without seeing the pictures."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.report.curves import least_loss
from inceptionctl.report.page import ReportedRun, named
from inceptionctl.report.paper import standard_error
from inceptionctl.run import Run
from inceptionctl.run_contents import RunContents
from tests.report.reading import Page


def test_nothing_is_asked_of_the_network(folder: Path, page: Page) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert page.outside == []
    assert not re.search(r"https?://|@import|url\(|<script", text)


def test_names_are_text_and_no_markup(folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "two &lt;b&gt;" in text and "two <b>" not in text


def test_the_evaluations_are_those_of_the_files(runs: list[Run], page: Page) -> None:
    for file in sorted(runs[0].evaluations.glob("*.json")):
        told = json.loads(file.read_text())
        row = next(row for row in page.rows if row[:2] == ["one", told["protocol"]])
        error = told["top1_error"]
        assert f"{error:.2f} ± {standard_error(error, 24):.2f}" in row
        assert f"{told['loss']:.4f}" in row


def test_confusions_are_counted(runs: list[Run], folder: Path) -> None:
    told = json.loads((runs[0].evaluations / "step-00000010_ema_12crop.json").read_text())
    names, matrix = told["classes"], told["confusion"]
    worst = max((matrix[i][j], names[i], names[j]) for i in range(6) for j in range(6) if i != j)
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert f" taken for {worst[2]}: {worst[0]} of 4" in text


def test_the_figures_of_each_class_are_those_of_the_file(runs: list[Run], page: Page) -> None:
    told = json.loads((runs[0].evaluations / "step-00000010_ema_12crop.json").read_text())
    columns = ("precision", "recall", "f1", "roc_auc")
    for name, own in (*told["per_class"].items(), ("macro average", told["macro_average"])):
        row = next(row for row in page.rows if row[0] == name)
        cells = [cell[:5] for cell in row[-4:]]  # what follows the table hangs on its last cell
        assert cells == [f"{own[key]:.3f}" for key in columns]


def test_a_result_of_an_older_version_has_no_table_of_classes(tmp_path: Path, runs: list[Run]) -> None:
    run = Path(shutil.copytree(runs[0].path, tmp_path / "old"))
    for file in (run / "evaluations").glob("*.json"):
        told = json.loads(file.read_text())
        plain = {name: {key: own[key] for key in ("num_images", "top1_error")} for name, own in told["per_class"].items()}
        kept = {key: value for key, value in told.items() if key not in ("macro_average", "thresholds")}
        file.write_text(json.dumps({**kept, "per_class": plain}))
    answer = CliRunner().invoke(app, ["report", str(run), "--output", str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.output
    assert "<h2>Classes</h2>" not in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_accuracy_stands_beside_error(page: Page) -> None:
    heads = next(row for row in page.rows if row[:2] == ["run", "protocol"])
    row = next(row for row in page.rows if row[:2] == ["one", "single"])
    for error, accuracy in (("top-1 error %", "accuracy %"), ("top-5 error %", "top-5 accuracy %")):
        wrong, right = (row[heads.index(head)].split(" ")[0] for head in (error, accuracy))
        assert float(wrong) + float(right) == pytest.approx(100.0)
    assert 0.0 <= float(row[heads.index("ECE %")]) <= 100.0 and heads[-2:] == ["ECE %", "images/s"]


def test_the_training_loss_says_what_it_is(folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "The loss: cross entropy with label smoothing 0.1, at least 0.42." in text
    assert least_loss(0.0, 6) == 0.0
    # By hand: a target of 1000 classes is 0.9001 and 999 times 0.0001.
    assert least_loss(0.1, 1000) == pytest.approx(-0.9001 * math.log(0.9001) - 0.0999 * math.log(0.0001))


def test_top5_is_shown_for_more_than_five_classes(tmp_path: Path, runs: list[Run]) -> None:
    run = Path(shutil.copytree(runs[0].path, tmp_path / "five"))
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("num_classes: 6", "num_classes: 5"))
    for file in (run / "evaluations").glob("*.json"):
        told = json.loads(file.read_text())
        file.write_text(json.dumps({**told, "classes": told["classes"][:5]}))
    for words in (
        ["report", str(run), "--output", str(tmp_path / "out")],
        ["runs", "show", str(run)],
        ["watch", str(run), "--once"],
    ):
        answer = CliRunner().invoke(app, words)
        assert answer.exit_code == 0 and "top-5" not in answer.stdout, answer.output
    assert "top-5" not in (tmp_path / "out" / "index.html").read_text()
    assert "top-5" in CliRunner().invoke(app, ["runs", "show", str(runs[0].path)]).stdout


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c", tmp_path / "a" / ".." / "a" / "run"]
    assert list(named(paths).values()) == ["1-run", "2-run", "c"]


def test_the_name_of_earlier_versions_is_taken(tmp_path: Path, runs: list[Run]) -> None:
    answer = CliRunner().invoke(app, ["report", str(runs[1].path), "--out", str(tmp_path / "out"), "--json"])
    assert answer.exit_code == 0 and "warning: --out was renamed to --output" in answer.stderr
    assert json.loads(answer.stdout)["page"] == str(tmp_path / "out" / "index.html")
    assert (tmp_path / "out" / "index.html").is_file()
    assert "--out " not in CliRunner().invoke(app, ["report", "--help"]).stdout


def test_errors(tmp_path: Path, runs: list[Run]) -> None:
    answer = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert answer.exit_code == 5 and "not a run directory" in answer.stderr
    (tmp_path / "x.json").write_text("[]")
    answer = CliRunner().invoke(app, ["report", str(runs[0].path), str(tmp_path / "x.json"), "--output", str(tmp_path / "out")])
    assert answer.exit_code == 3 and "not a result of an ensemble" in answer.stderr and not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    answer = CliRunner().invoke(app, ["report", str(runs[0].path), "--output", str(tmp_path / "file")])
    assert answer.exit_code == 4 and "hint:" in answer.stderr


def test_of_several_checkpoints_the_best_is_shown(tmp_path: Path) -> None:
    contents = RunContents(Run(tmp_path))
    reported = ReportedRun("x", contents, [{"step": 5, "n": 1}, {"step": 5, "n": 2}, {"step": 10, "n": 3}])
    assert reported.shown == {"step": 10, "n": 3}
    contents.checkpoints = [{"step": 5, "pointers": ["best"]}, {"step": 10, "pointers": ["latest"]}]
    assert reported.shown == {"step": 5, "n": 2}
    assert ReportedRun("x", contents).shown is None
