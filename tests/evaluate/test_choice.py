"""Which checkpoint is taken of a run, by every command that takes one; and how runs are found by their names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from inceptionctl.cli import app
from inceptionctl.errors import CheckpointError, RecipeError
from inceptionctl.evaluate.trained import load_trained
from inceptionctl.run import Run, find_run
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.checkpoint_choice import choose_checkpoint
from inceptionctl.train.inheritance import find_weights

CPU = torch.device("cpu")
FIGURES = {5: (0.5, 12.5, "all"), 10: (1.0, 25.0, "all")}


@pytest.fixture(scope="module")
def place(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with runs/b, whose best checkpoint is that of step 5."""
    folder = tmp_path_factory.mktemp("place")
    with_best(run, folder / "runs" / "b", FIGURES)
    return folder


@pytest.fixture(scope="module")
def evaluated(place: Path) -> tuple[Result, Result]:
    """Of the best, as JSON, and of the newest, printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        words = ("evaluate", "b", "--precision", "fp32")
        return invoke(*words, "--json"), invoke(*words, "--checkpoint", "latest")


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def with_best(run: Run, path: Path, figures: dict[int, tuple[float, float, str]]) -> Path:
    """A copy of the run with the best at step 5 and rows of validations."""
    shutil.copytree(run.path, path, ignore=shutil.ignore_patterns("evaluations", "export"))
    (path / "evaluations").mkdir()
    files.point(path / "checkpoints", "best", path / "checkpoints" / "step-00000005")
    rows = [
        {"kind": "evaluate", "step": step, "epoch": epoch, "top1_error": error, "loss": 1.0, "subset": subset}
        for step, (epoch, error, subset) in figures.items()
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def invoke(*words: str | Path) -> Result:
    answer = CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "250"})
    assert answer.exit_code == 0, answer.output
    return answer


def test_the_recipe_says_which_is_taken_by_default(place: Path) -> None:
    shutil.copytree("runs/b", "runs/newest")
    told = place / "runs/newest/recipe.yaml"
    text = told.read_text().replace("  checkpoint: best\n", "  checkpoint: latest\n")
    told.write_text(text)
    try:
        assert Run(told.parent).recipe().evaluate.checkpoint == "latest"
        assert load_trained(told.parent, "ema", CPU).step == 10
        assert load_trained(told.parent, "ema", CPU, "best").step == find_weights_step(Path("runs/b")) == 5
        assert find_weights_step(told.parent) == 10
        told.write_text(text.replace("  checkpoint: latest\n", ""))  # of a run that knows of no such key
        assert load_trained(told.parent, "ema", CPU).step == 5
    finally:
        shutil.rmtree(told.parent)


def find_weights_step(path: Path) -> int:
    return files.step_of(find_weights(path, verified=False).file.parent)


def test_the_best_is_taken_where_one_is_kept_else_the_newest(run: Run) -> None:
    assert load_trained(Path("runs/b"), "ema", CPU).step == 5
    assert load_trained(Path("runs/b"), "ema", CPU, "latest").step == 10
    assert load_trained(Path("runs/b"), "ema", CPU, "best").step == 5
    assert load_trained(run.path, "ema", CPU).step == 10


@pytest.mark.parametrize("wish", ["10", "step-00000010", "runs/b/checkpoints/step-00000010"])
def test_one_may_be_named_by_its_step(wish: str) -> None:
    assert choose_checkpoint(Path("runs/b"), wish).checkpoint == Path("runs/b/checkpoints/step-00000010")


def test_what_cannot_be_chosen_says_what_can(run: Run) -> None:
    with pytest.raises(CheckpointError, match="keeps no checkpoint of step 7") as caught:
        choose_checkpoint(Path("runs/b"), "7")
    assert caught.value.hint == "it keeps those of: 5, 10"
    with pytest.raises(CheckpointError, match="has no best checkpoint"):
        choose_checkpoint(run.path, "best")
    with pytest.raises(CheckpointError, match="needs a run directory"):
        choose_checkpoint(Path("runs/b/checkpoints/step-00000005"), "best")
    for wish in ("newest", "-1", "²"):
        with pytest.raises(RecipeError, match="neither best, latest nor a step"):
            choose_checkpoint(Path("runs/b"), wish)


def test_both_are_told_with_their_figures() -> None:
    best, newest = (
        "step 5 (epoch 0.50), top-1 error 12.50%, accuracy 87.50%",
        "step 10 (epoch 1.00), top-1 error 25.00%, accuracy 75.00%",
    )
    assert choose_checkpoint(Path("runs/b")).in_words() == f"the best checkpoint: {best}; the newest is {newest}"
    assert choose_checkpoint(Path("runs/b"), "latest").in_words() == f"the newest checkpoint: {newest}; the best is {best}"
    assert choose_checkpoint(Path("runs/b"), "10").in_words() == f"a checkpoint by its step: {newest}; the best is {best}"


def test_images_figure_and_what_is_not_known_are_told_too(run: Run, tmp_path: Path) -> None:
    other = with_best(run, tmp_path / "other", {5: (0.5, 12.5, "non-blacklisted")})
    assert choose_checkpoint(other).in_words() == (
        "the best checkpoint: step 5 (epoch 0.50), top-1 error 12.50%, accuracy 87.50% on non-blacklisted images;"
        " the newest is step 10, not validated"
    )
    newest = other / "checkpoints" / "step-00000010" / "progress.json"
    progress = json.loads(newest.read_text())
    progress["recipe"]["checkpoint"]["best_by"] = "loss"
    newest.write_text(json.dumps(progress))
    assert choose_checkpoint(other).in_words().startswith("the best checkpoint, by loss: step 5")
    shutil.rmtree(other / "checkpoints" / "step-00000005")
    assert choose_checkpoint(other).in_words() == "the newest checkpoint: step 10, not validated; no best one is kept"
    (other / "checkpoints" / "best").write_text("step-00000010\n")
    assert choose_checkpoint(other).in_words() == "the best checkpoint, by loss: step 10, not validated; it is the newest too"


def taken(told: dict[str, Any]) -> tuple[str, Any, Any]:
    chosen = told["chosen"]
    return chosen["which"], chosen["best"] and chosen["best"]["top1_error"], chosen["latest"] and chosen["latest"]["step"]


def test_evaluate_takes_it_and_says_so(evaluated: tuple[Result, Result]) -> None:
    best, newest = evaluated
    told = json.loads(best.stdout)
    assert (told["step"], told["checkpoint"]) == (5, "runs/b/checkpoints/step-00000005") and taken(told) == ("best", 12.5, 10)
    assert json.loads(Path("runs/b/evaluations/step-00000005_ema_single.json").read_text()) == told
    assert "the newest checkpoint: step 10 (epoch 1.00), top-1 error 25.00%" in newest.stdout
    assert "the best is step 5" in newest.stdout
    assert Path("runs/b/evaluations/step-00000010_ema_single.json").is_file()


def test_predict_and_export_take_it_too(data: Path, tmp_path: Path) -> None:
    image = data / "val" / "bear" / "0.jpg"
    told = json.loads(invoke("predict", "b", image, "--json").stdout)
    assert told["source"] == "runs/b/checkpoints/step-00000005" and taken(told) == ("best", 12.5, 10)
    answer = invoke("predict", "b", image, "--checkpoint", "10")
    assert "by runs/b/checkpoints/step-00000010, a checkpoint by its step: step 10" in answer.stderr
    words = ("export", "b", "--format", "safetensors", "--output", tmp_path, "--json")
    answer = invoke(*words)
    told = json.loads(answer.stdout)
    assert told["step"] == 5 and taken(told) == ("best", 12.5, 10) and "exporting the best checkpoint: step 5" in answer.stderr
    assert json.loads(invoke(*words, "--checkpoint", "latest").stdout)["step"] == 10
    for verb in (("predict", tmp_path, image), ("evaluate", tmp_path / "model.safetensors", "--data", data)):
        refused = CliRunner().invoke(app, [*map(str, verb), "--checkpoint", "best"])
        assert refused.exit_code == 2 and "is an export, of one checkpoint" in refused.stderr


@pytest.mark.usefixtures("evaluated")
def test_an_ensemble_combines_evaluations_of_it() -> None:
    shutil.copytree("runs/b", "runs/c")
    for wish, step in (((), 5), (("--checkpoint", "latest"), 10)):
        answer = invoke("ensemble", "b", "c", "--saved-only", "--json", *wish)
        told = [member["checkpoint"] for member in json.loads(answer.stdout)["members"]]
        assert told == 2 * [f"runs/b/checkpoints/step-{step:08d}"]
    assert "runs/c: the newest checkpoint: step 10" in answer.stderr
    Path("runs/c/evaluations/step-00000005_ema_single.parquet").unlink()
    refused = CliRunner().invoke(app, ["ensemble", "b", "c", "--saved-only"])
    assert refused.exit_code == 5 and "runs/c has no evaluation by single yet" in refused.stderr


def test_one_checkpoint_and_all_of_them_exclude_each_other() -> None:
    refused = CliRunner().invoke(app, ["evaluate", "b", "--all", "--checkpoint", "best"])
    assert refused.exit_code == 2 and "--all takes every checkpoint" in refused.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("checkpoints", "list", "b"),
        ("checkpoints", "verify", "b"),
        ("checkpoints", "show", "b/checkpoints/step-00000005"),
        ("runs", "show", "b"),
        ("watch", "b", "--once"),
        ("report", "b", "--out", "page"),
    ],
)
def test_every_verb_finds_a_run_by_its_name(words: tuple[str, ...]) -> None:
    invoke(*words)


def test_a_name_is_looked_up_where_nothing_of_ours_has_it(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run.path, "runs/a", ignore=shutil.ignore_patterns("checkpoints"))
    Path("runs/a/checkpoints").mkdir()
    assert find_run(Path("a")) == Path("runs/a") and find_run(Path("b")) == Path("b")
    assert find_run(Path("a/recipe.yaml")) == Path("runs/a/recipe.yaml")
    assert find_run(run.path) == run.path and find_run(Path("runs/a")) == Path("runs/a")
    Path("a/train").mkdir(parents=True)  # somebody's images
    assert find_run(Path("a")) == Path("runs/a")
    Path("a/model.onnx").touch()
    assert find_run(Path("a")) == Path("a")
