"""`runs prune`: what goes, what stays, and who is asked."""

import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.run import Run
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.lock import take_lock
from tests.cli.test_runs import make_run, save
from tests.commands import COMMAND, environment
from tests.evaluate.making import damage

STEPS = (20, 40, 60, 80, 100)


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["runs", "prune", *map(str, arguments)], env={"COLUMNS": "200"})


def pruned(*arguments: str | Path) -> dict[str, Any]:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def steps(run: Run) -> list[int]:
    return [files.step_of(path) for path in files.list_checkpoints(run.checkpoints)]


def seal_progress(checkpoint: Path, **values: Any) -> None:
    progress = json.loads((checkpoint / "progress.json").read_text())
    (checkpoint / "progress.json").write_text(json.dumps(progress | values))
    files.seal(checkpoint)


def make_finished(path: Path) -> Run:
    run = make_run(path, num_rows=10)
    saved = {step: save(run, step) for step in STEPS}
    files.point(run.checkpoints, "best", saved[40])
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Finished at step 100, best at step 40."""
    return make_finished(tmp_path / "run")


def test_newest_and_best_stay_and_the_bytes_are_right(run: Run) -> None:
    before = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    planned = pruned(run.path, "--dry-run")
    assert steps(run) == list(STEPS)
    done = pruned(run.path, "--yes")
    assert steps(run) == [40, 100]
    [entry] = done["runs"]
    assert [item["name"] for item in entry["remove"]] == ["step-00000020", "step-00000060", "step-00000080"]
    assert entry["keep"] == ["step-00000040", "step-00000100"] and entry["left_alone"] is None
    after = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    assert done["bytes"] == entry["bytes"] == before - after == planned["bytes"] > 0
    assert run.lock_file.read_text() == ""
    again = invoke(run.path)  # nothing to ask
    assert again.exit_code == 0 and "no checkpoint can be spared" in again.stderr


def test_keep(run: Run) -> None:
    pruned(run.path, "--keep", "3", "--yes")
    assert steps(run) == [40, 60, 80, 100]


def test_the_best_that_only_the_newest_knows_of_and_permanent_ones_stay(run: Run) -> None:
    (run.checkpoints / "best").unlink()
    seal_progress(run.checkpoints / "step-00000100", best={"step": 60}, kept=[20])
    pruned(run.path, "--yes")
    assert steps(run) == [20, 60, 100]
    pruned(run.path, "--permanent", "--yes")
    assert steps(run) == [60, 100]


def test_leftovers_of_killed_writers_go(run: Run) -> None:
    leftover = run.checkpoints / ".step-00000100.77.tmp"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"x" * 50)
    assert {"name": leftover.name, "bytes": 50} in pruned(run.path, "--yes")["runs"][0]["remove"]
    assert not leftover.exists()


def test_nobody_is_asked_where_no_terminal_is(run: Run) -> None:
    for more in ((), ("--json",)):
        refused = invoke(run.path, *more)
        assert refused.exit_code == 2 and "hint: add --yes to remove, or --dry-run to only look" in refused.stderr
    assert steps(run) == list(STEPS)


@pytest.mark.parametrize(("answer", "left"), [("n", list(STEPS)), ("y", [40, 100])])
def test_in_a_terminal_it_asks(run: Run, answer: str, left: list[int]) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    command = [*COMMAND, "runs", "prune", str(run.path)]
    done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, env=environment(), timeout=120)
    for end in (ours, theirs):
        os.close(end)
    assert "Remove 3 checkpoints, " in done.stderr and done.returncode == (answer == "n"), done.stderr
    assert steps(run) == left


def test_a_run_that_is_trained_is_left_alone(run: Run) -> None:
    held, _ = take_lock(run)
    entry = pruned(run.path, "--yes")["runs"][0]
    assert entry["left_alone"].startswith(f"running: process {os.getpid()}") and entry["remove"] == []
    held.close()
    assert steps(run) == list(STEPS)


def test_a_training_that_begins_after_the_question_keeps_everything(run: Run) -> None:
    from inceptionctl.stages.prune import plan, prune

    planned = plan([run.path])
    held, _ = take_lock(run)
    entry = prune(planned)["runs"][0]
    held.close()
    assert "is being trained by" in entry["left_alone"] and steps(run) == list(STEPS)
    longer = run.recipe_file.read_text().replace("epochs: 10.0", "epochs: 20.0")
    run.recipe_file.write_text(longer)  # it goes on, and has been stopped meanwhile
    assert "only finished runs" in prune(planned)["runs"][0]["left_alone"] and steps(run) == list(STEPS)


def test_an_unfinished_run_and_one_whose_newest_is_damaged_are_left_alone(run: Run, tmp_path: Path) -> None:
    half = make_run(tmp_path / "half", num_rows=5)
    for step in (20, 40):
        save(half, step)
    damage(run.checkpoints / "step-00000100" / "model.safetensors")  # a flipped bit: names and sizes are right
    told = [entry["left_alone"] for entry in pruned(half.path, run.path, "--yes")["runs"]]
    assert told[0] == "stopped; only finished runs are pruned"
    assert "step-00000100 is damaged: model.safetensors was changed" in told[1]
    assert steps(half) == [20, 40] and steps(run) == list(STEPS)
    printed = invoke(half.path, "--dry-run")
    assert f"{half.path}: left alone: stopped" in printed.stderr and "no checkpoint can be spared" in printed.stderr


def test_without_names_it_is_all_runs_under_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pruned("--dry-run") == {"runs": [], "bytes": 0}
    for name in ("a", "b"):
        make_finished(tmp_path / "runs" / name)
    (tmp_path / "runs" / "notes").mkdir()
    assert [entry["path"] for entry in pruned("--dry-run")["runs"]] == ["runs/a", "runs/b"]
    printed = invoke("b", "runs/b", "--dry-run").stdout
    assert printed.count("step-00000020") == 1 and "Can be removed: 3 checkpoints" in printed
    absent = invoke("none", "--yes")
    assert absent.exit_code == 5 and "no run directory none" in absent.stderr
