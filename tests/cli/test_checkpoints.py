import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.run import Run
from inceptionctl.train import checkpoint_files as files
from tests.evaluate.making import damage, make_data
from tests.evaluate.making import make_run as make_trained_run

COMMANDS = ("list", "verify", "show")


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["checkpoints", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Checkpoints at steps 5 (the best) and 10."""
    return make_trained_run(tmp_path / "run", make_data(tmp_path / "data"), best=5)


def test_whole_checkpoints_are_listed_verified_and_shown(run: Run) -> None:
    for command in ("list", "verify"):
        result = invoke(command, run.path, "--json")
        assert result.exit_code == 0, result.output
        rows = json.loads(result.stdout)
        assert [(row["step"], row["pointers"], row["problem"]) for row in rows] == [(5, ["best"], None), (10, ["latest"], None)]
        assert all(row["bytes"] > 1000 and Path(row["path"]).is_dir() for row in rows)
    shown = json.loads(invoke("show", run.path, "--json").stdout)
    assert (shown["step"], shown["total_steps"], shown["ema_updates"]) == (10, 10, 0)
    assert [item["name"] for item in shown["files"]] == list(files.FILES)
    assert shown["files"][0]["tensors"] > 100 and shown["files"][3]["tensors"] is None
    for command in COMMANDS:
        printed = invoke(command, run.path)
        assert printed.exit_code == 0 and "10" in printed.stdout


def test_a_top5_error_of_five_classes_is_null(run: Run) -> None:
    file = (folder := run.checkpoints / "step-00000010") / "progress.json"
    progress = json.loads(file.read_text())
    best = {"step": 5, "top1_error": 20.0, "top5_error": 0.0, "loss": 1.0}
    for classes, told in ((progress["classes"], 0.0), (progress["classes"][:5], None)):
        file.write_text(json.dumps({**progress, "classes": classes, "best": best}))
        files.seal(folder)
        assert json.loads(invoke("show", run.path, "--json").stdout)["best"] == best | {"top5_error": told}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_single_folder_will_do(command: str, run: Run) -> None:
    result = invoke(command, run.checkpoints / "step-00000005", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found if command == "show" else found[0])["step"] == 5


def test_a_flipped_bit_is_found_by_verify_and_passed_over_by_show(run: Run) -> None:
    damage(run.checkpoints / "step-00000010" / "ema.safetensors")
    assert invoke("list", run.path).exit_code == 0  # names and sizes are right
    result = invoke("verify", run.path, "--json")
    assert result.exit_code == 5 and "damaged: step-00000010" in result.stderr
    assert [row["problem"] and row["problem"].split(":")[0] for row in json.loads(result.stdout)] == [
        None,
        "ema.safetensors was changed",
    ]
    shown = invoke("show", run.path, "--json")
    assert shown.exit_code == 0 and json.loads(shown.stdout)["step"] == 5 and "ema.safetensors was changed" in shown.stderr
    assert invoke("show", run.checkpoints / "step-00000010").exit_code == 5


def test_none_whole_is_code_5_for_all(run: Run) -> None:
    for checkpoint in files.list_checkpoints(run.checkpoints):
        (checkpoint / "model.safetensors").write_bytes(b"")
    for command in COMMANDS:
        result = invoke(command, run.path)
        assert result.exit_code == 5 and "is whole" in result.stderr and "hint: " in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_planted_pickle_is_refused(command: str, run: Run) -> None:
    planted = run.checkpoints / "step-00000010" / "optimizer.pt"
    planted.write_bytes(pickle.dumps({}))
    result = invoke(command, planted.parent)
    assert result.exit_code == 5 and "optimizer.pt, which its manifest does not name" in result.stdout + result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_other_paths_are_worded(command: str, run: Run, tmp_path: Path) -> None:
    for checkpoint in files.list_checkpoints(run.checkpoints):
        files.delete(checkpoint)
    (tmp_path / "file").write_text("")
    for path in (run.path, tmp_path / "none", tmp_path / "file", tmp_path / "data"):
        result = invoke(command, path)
        assert result.exit_code == 5 and "error: " in result.stderr and "hint: " in result.stderr, (path, result.output)


def test_the_best_is_told_with_the_images_that_it_was_judged_on(run: Run) -> None:
    newest = run.checkpoints / "step-00000010"
    progress = json.loads((newest / "progress.json").read_text())
    best = {"step": 5, "top1_error": 9.5, "subset": "non-blacklisted"}
    (newest / "progress.json").write_text(json.dumps(progress | {"best": best, "num_train_images": 1}))
    files.seal(newest)
    shown = invoke("show", run.path).stdout
    assert "top-1 error 9.50%, accuracy 90.50% on non-blacklisted images at step 5" in shown
    assert re.search(r"1 rank, fp32, 1 image *\n", shown)


def test_what_is_kept_for_good_is_marked(run: Run) -> None:
    newest = run.checkpoints / "step-00000010"
    progress = json.loads((newest / "progress.json").read_text())
    (newest / "progress.json").write_text(json.dumps(progress | {"kept": [5]}))
    files.seal(newest)
    assert [row["pointers"] for row in json.loads(invoke("list", run.path, "--json").stdout)] == [["best", "kept"], ["latest"]]
