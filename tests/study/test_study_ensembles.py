"""Ensembles within a study: draws of networks, and numbers worked out by hand; a study by one command, from its trainings to the page."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inceptionctl.errors import DataError, RecipeError
from inceptionctl.evaluate.records import read_record, write_answers
from inceptionctl.recipe import load_study
from inceptionctl.run_contents import RunContents
from inceptionctl.study.cells import Cell, reported_cells
from inceptionctl.study.ensembles import Evaluation, check_ensembles, ensembles_of, errors_of, misclassified
from inceptionctl.study.page import write_page
from inceptionctl.study.result import result_of
from tests.commands import TINY, inceptionctl, refused, sets
from tests.data.conftest import two_classes

RECIPE = """\
study:
  seeds: [1, 2, 3, 4]
  ensembles: {two_a: {a: 2}, both: {a: 1, b: 1}}
  pairs: [[two_a, both]]
model: {num_classes: 2}
arms: {a: {}, b: {model: {name: inception_resnet_v1}}}
"""

# Probability of each image's own class, of two.
ANSWERS = {
    ("a", 1): [0.9, 0.4, 0.4, 0.9],
    ("a", 2): [0.9, 0.7, 0.3, 0.9],
    ("a", 3): [0.4, 0.4, 0.4, 0.4],
    ("a", 4): [0.9, 0.9, 0.9, 0.9],
    ("b", 1): [0.9, 0.9, 0.4, 0.9],
}


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "s.yaml").write_text(RECIPE, encoding="utf-8")
    return str(tmp_path / "s.yaml")


def saved(file: Path, answers: Sequence[float], images: Sequence[str] = ("0", "1", "2", "3")) -> Path:
    labels = np.array([0, 1, 0, 1])
    right = np.array(answers, dtype=np.float32)
    probabilities = np.stack([1.0 - right, right], axis=1)
    probabilities[labels == 0] = probabilities[labels == 0, ::-1]
    classes = ["x", "y"]
    write_answers(file, images, labels, classes, probabilities, {"protocol": "single", "classes": classes})
    return file


def evaluated(cells: Sequence[Cell], folder: Path) -> list[Evaluation]:
    """What `evaluations` finds where each training has answered as in ANSWERS, and one that has not has diverged."""
    found = []
    for cell in cells:
        answers = ANSWERS.get((cell.condition, cell.seed))
        if answers is None:
            contents = RunContents(cell.run, starts=[{"ended": {"exit_code": 6}}], recipe=cell.recipe)
            cell = replace(cell)
            cell.__dict__["contents"] = contents
        found.append(Evaluation(cell, answers and saved(folder / f"{cell.condition}{cell.seed}.parquet", answers)))
    return found


def test_an_arm_is_trained_with_the_seeds_that_are_needed(recipe: str, tmp_path: Path) -> None:
    study = load_study(recipe)
    assert study.section.num_draws == 2
    assert study.section.draw("two_a", 1) == [("a", 3), ("a", 4)] and study.section.draw("both", 1) == [("a", 2), ("b", 2)]
    cells = [(cell.condition, cell.seed) for cell in reported_cells(study, tmp_path / "runs", {})]
    assert cells == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("a", 4)]
    # A pair of arms is compared on all seeds.
    assert load_study(recipe, ["study.pairs=[[a, b]]"]).section.seeds_of("b") == [1, 2, 3, 4]
    with pytest.raises(RecipeError, match="compares an arm and an ensemble: two_a, b"):
        load_study(recipe, ["study.pairs=[[two_a, b]]"])
    ensemble = load_study("ensemble").section
    assert [len(ensemble.seeds_of(f"inception_{arm}")) for arm in ("v3", "v4", "resnet_v2")] == [12, 3, 12]


def test_errors_gains_and_differences(recipe: str, tmp_path: Path) -> None:
    study = load_study(recipe)
    cells = reported_cells(study, tmp_path / "runs", {})
    found = ensembles_of(study, evaluated(cells, tmp_path))
    assert found is not None and (found["num_images"], found["checkpoint"]) == (4, "latest")
    two_a, both = found["ensembles"]
    # Images 1 and 2 of the first draw: 0.55 and 0.35 on average, so 25% against 50 and 25; the second: 0.65 everywhere, 0 against 100 and 0.
    assert [draw["top1_error"] for draw in two_a["draws"]] == [25.0, 0.0]
    assert [[one["top1_error"] for one in draw["members"]] for draw in two_a["draws"]] == [[50.0, 25.0], [100.0, 0.0]]
    values = {key: one["value"] for key, one in two_a["errors"]["top1_error"].items()}
    assert values == {"members": 43.75, "ensemble": 12.5, "gain": 31.25}
    # The second network of b has died.
    assert (len(both["draws"]), both["died"], both["unfinished"]) == (1, 1, 0)
    values = {key: one["value"] for key, one in both["errors"]["top1_error"].items()}
    assert values == {"members": 37.5, "ensemble": 25.0, "gain": 12.5}
    (difference,) = found["differences"]
    told = [difference[key]["value"] for key in ("members", "ensembles", "ensembles_less_members")]
    assert told == [-6.25, 12.5, 18.75] and difference["measure"] == "top1_error"  # two classes have no top-5 error
    low, high = difference["ensembles_less_members"]["interval"]
    assert low < 18.75 < high


def test_networks_stand_in_the_order_of_their_errors(recipe: str, tmp_path: Path) -> None:
    study = load_study(recipe, ["study.ensembles={mixed: {b: 1, a: 2}}", "study.pairs=[]"])
    cells = reported_cells(study, tmp_path / "runs", {})
    result = result_of("s", study, cells, [], {}, ensembles_of(study, evaluated(cells, tmp_path)))
    page = write_page(result, study, cells, tmp_path).read_text(encoding="utf-8")
    assert '<td>b 1; a 1, 2</td><td class="n">25.00, 50.00, 25.00</td>' in page


def test_evaluations_of_other_images_are_refused(recipe: str, tmp_path: Path) -> None:
    study = load_study(recipe)
    found = evaluated(reported_cells(study, tmp_path / "runs", {}), tmp_path)
    saved(tmp_path / "b1.parquet", ANSWERS["b", 1], ("0", "1", "2", "other"))
    with pytest.raises(DataError, match="b, seed 1 are of different images"):
        ensembles_of(study, found)


def test_networks_that_would_be_validated_on_other_images_are_refused_first(recipe: str, tmp_path: Path) -> None:
    for name in "ab":
        two_classes(tmp_path / name)
    (next((tmp_path / "b/val").rglob("*.*"))).unlink()
    roots = [f"arms.{name}.data.root={tmp_path / name}" for name in "ab"]
    with pytest.raises(DataError, match=r"arms\.a and arms\.b would be validated on different images"):
        check_ensembles(load_study(recipe, roots))
    refused(inceptionctl("study", recipe, *sets(*roots), "--dry-run"), 3, "would be validated on different images")


def test_top5_with_more_than_five_classes() -> None:
    probabilities = torch.tensor([[0.3, 0.2, 0.15, 0.14, 0.11, 0.1]]).repeat(3, 1)
    wrong = misclassified(probabilities, torch.tensor([0, 4, 5]))
    assert (wrong["top1_error"].tolist(), wrong["top5_error"].tolist()) == ([0, 1, 1], [0, 0, 1])


def test_intervals_are_over_images_and_draws() -> None:
    images = np.arange(400)
    wrong = np.stack([images % 4 == 0, images % 4 == 0])[None].astype(np.int64)  # 25%, by one network and by itself
    errors, resamples = errors_of({"one": (wrong, 1), "same": (wrong, 1), "four": (4 * wrong, 4)})
    assert errors["one"].tolist() == [25.0, 25.0] and errors["four"].tolist() == [25.0, 100.0]
    # 1.96 standard errors of a binomial distribution: 2.165 points.
    assert np.percentile(resamples["one"][:, 1], [2.5, 97.5]) == pytest.approx([25 - 4.24, 25 + 4.24], abs=0.26)
    # Everybody is judged by the same images, so equal answers never differ.
    assert (resamples["one"] == resamples["same"]).all()
    # A draw without an error and one without a right image: however the images fall, 0, 50 or 100%.
    draws = np.stack([np.zeros((2, 400)), np.ones((2, 400))]).astype(np.int64)
    _, resamples = errors_of({"two": (draws, 1)})
    assert set(np.unique(resamples["two"])) == {0.0, 50.0, 100.0}
    assert np.percentile(resamples["two"][:, 0], [2.5, 97.5]).tolist() == [0.0, 100.0]


REAL = """\
study:
  seeds: [1, 2]
  ensembles: {two: {a: 2}}
model: {name: inception_resnet_v1, num_classes: 2}
schedule: {name: constant, base_lr: 0.01}
evaluate: {every_epochs: null, batch_size: 16}
checkpoint: {every_epochs: null, keep_last: 1}
train: {max_steps: 2}
arms: {a: {}}
"""


@pytest.mark.slow
def test_networks_are_trained_evaluated_once_and_averaged(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(REAL, encoding="utf-8")
    images, folder = two_classes(tmp_path / "images"), tmp_path / "made"
    words = ("study", tmp_path / "two.yaml", *sets(*TINY, f"data.root={images}"), "--cpu-ranks", "1", "--output", folder)
    made = inceptionctl(*words, "--json")
    assert made.returncode == 0, made.stderr
    result = json.loads(made.stdout)
    (draw,) = result["ensembles"]["ensembles"][0]["draws"]
    files = [next((folder / f"runs/a/seed-{seed}/evaluations").glob("step-00000002_ema_single.parquet")) for seed in (1, 2)]
    records = [read_record(file) for file in files]
    mean = (records[0].probabilities.double() + records[1].probabilities.double()) / 2
    assert draw["top1_error"] == 100.0 * float((mean.argmax(1) != records[0].labels).double().mean())
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert all(text in page for text in ("<h2>Ensembles</h2>", "2 a", "on 7 validation images", "a 1, 2"))

    # What another command evaluates is left to it.
    for file in files[:1]:
        file.unlink()
    with (files[0].parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = inceptionctl(*words)
    assert other.returncode == 0 and "a, seed 1: evaluated by another command; passed over" in other.stderr
    assert "networks of 1 draw are not trained or evaluated yet" in other.stderr
    planned = json.loads(inceptionctl(*words, "--dry-run", "--json").stdout)["evaluations"]
    assert [(one["seed"], one["evaluation"]) for one in planned] == [(1, None), (2, str(files[1]))]
    # Only what is missing is evaluated, and all says the same.
    again = inceptionctl(*words)
    assert again.returncode == 0 and "evaluation 1 of 2" in again.stderr and "evaluation 2 of 2" not in again.stderr
    assert f"{draw['top1_error']:.2f} (" in again.stdout
    assert json.loads((folder / "study.json").read_text(encoding="utf-8"))["ensembles"] == result["ensembles"]
    # Another protocol is another evaluation of the same networks.
    crops = json.loads(inceptionctl(*words, *sets("study.protocol=12crop"), "--report-only", "--json").stdout)
    assert crops["ensembles"]["ensembles"][0]["unfinished"] == 1
