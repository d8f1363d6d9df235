"""An ensemble from its recipe by one command: real trainings, stopped and killed on the way, gone on with by the same command."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.evaluate.records import read_record
from inceptionctl.run import Run
from tests.commands import TINY, inceptionctl, refused, rows, sets, started, wait_for_step
from tests.data.conftest import two_classes
from tests.train.test_signals import left_of, wait_for

RECIPE = """\
protocol: 12crop
weights: {a: 3}
model: {num_classes: 2}
schedule: {name: constant, base_lr: 0.01}
evaluate: {batch_size: 16}
checkpoint: {every_epochs: null, every_steps: 5}
members:
  a: {model: {name: inception_resnet_v2}, train: {max_steps: 2}}
  b: {train: {seed: 1, max_steps: 20}}
"""
TRAINED = "trained and evaluated by 12crop"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_classes(tmp_path_factory.mktemp("images"))


@pytest.fixture
def words(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The command, typed in tmp_path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.yaml").write_text(RECIPE, encoding="utf-8")
    return ("ensemble", "two.yaml", *sets(*TINY, f"data.root={images}"), "--cpu-ranks", "1", "--output", "both")


def starts(run: Path) -> int:
    return len(json.loads((run / "environment.json").read_text()))


def states(words: tuple[str, ...]) -> dict[str, str]:
    """What is to be done for each member; without a process, for most of its time would be its start."""
    told = CliRunner().invoke(app, [*words, "--dry-run", "--json"])
    assert told.exit_code == 0, told.output
    return {member["member"]: member["to_do"] for member in json.loads(told.stdout)["members"]}


def interrupted(process: subprocess.Popen[bytes], run: Path, step: int, log: Path, number: int) -> int:
    """Send the command alone a signal when a run has made a step; its exit code, once nothing of it is left."""
    wait_for_step(run, step, process, log, seconds=400)
    process.send_signal(number)
    code = process.wait(timeout=200)
    wait_for(lambda: not left_of(process), None, log)
    return code


@pytest.mark.slow
def test_stopped_and_killed_it_goes_on_with_what_is_missing(words: tuple[str, ...], tmp_path: Path) -> None:
    both, log = tmp_path / "both", tmp_path / "log"
    assert states(words) == {"a": "to be trained", "b": "to be trained"}
    assert not both.exists()
    with started(*words, cwd=tmp_path, log=log) as process:
        assert interrupted(process, both / "b", 2, log, signal.SIGTERM) == 75
    said = log.read_text()
    assert "stopped in `train` of b" in said and "resume with: inceptionctl ensemble two.yaml --set" in said
    assert "Traceback" not in said and "error:" not in said
    step = states(words)["b"]
    assert step.startswith("to be resumed at step ")
    saved = int(step.split()[5])
    with started(*words, cwd=tmp_path, log=log) as process:
        # What it has started must not go on without it.
        assert interrupted(process, both / "b", saved + 2, log, signal.SIGKILL) == -signal.SIGKILL
    assert log.read_text().count("stopped by a signal after step") == 2
    assert states(words)["a"] == TRAINED

    done = inceptionctl(*words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (starts(both / "a"), starts(both / "b")) == (1, 3)
    assert [row["step"] for row in rows(both / "b")] == list(range(1, 21))
    told = json.loads(done.stdout)  # nothing else is on stdout
    assert told == json.loads((both / "ensemble_12crop.json").read_text())
    assert [(one["name"], one["network"], one["weight"]) for one in told["members"]] == [
        ("a", "inception_resnet_v2", 0.75),
        ("b", "inception_v4", 0.25),
    ]
    a, b = (read_record(next((both / name / "evaluations").glob("*_ema_12crop.parquet"))) for name in "ab")
    mean = read_record(both / "ensemble_12crop.parquet")
    assert torch.allclose(mean.probabilities, 0.75 * a.probabilities + 0.25 * b.probabilities, atol=1e-6)
    assert (mean.images, mean.labels.tolist()) == (a.images, a.labels.tolist())
    assert mean.about["protocol"] == "12crop" and mean.about["members"] == told["members"]
    assert told["seconds_per_image"] == pytest.approx(sum(one["seconds_per_image"] for one in told["members"]))

    before = {file: file.stat().st_mtime_ns for file in both.rglob("step-*/*")}
    again = inceptionctl(*words, cwd=tmp_path)
    assert again.returncode == 0 and f"b, 2 of 2: {TRAINED}" in again.stderr
    assert (starts(both / "a"), starts(both / "b")) == (1, 3)
    # An evaluation that went missing, or by another protocol, is made; nothing is trained for it.
    next((both / "b" / "evaluations").glob("*.json")).unlink()
    assert states(words) == {"a": TRAINED, "b": "trained; to be evaluated by 12crop"}
    refused(inceptionctl(*words, "--saved-only", cwd=tmp_path), 5, "b of both: no evaluation by 12crop yet")
    other = inceptionctl(*words, "--protocol", "single", "--weights", "1,1", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    assert json.loads((both / "ensemble_single.json").read_text())["members"][0]["weight"] == 0.5
    assert {file: file.stat().st_mtime_ns for file in both.rglob("step-*/*")} == before
    refused(inceptionctl(*words, "--set", "members.b.model.width=0.25", cwd=tmp_path), 5, "both/b was started with another")


def test_what_is_wrong_is_said_before_anything_is_trained(words: tuple[str, ...], tmp_path: Path, images: Path) -> None:
    def fails(code: int, *told: str, more: tuple[str, ...] = (), of: tuple[str, ...] = words, **variables: str) -> None:
        refused(inceptionctl(*of, *more, cwd=tmp_path, **variables), code, *told)
        assert not (tmp_path / "both").exists()

    fails(3, "nowhere", "does not exist", more=sets("data.root=nowhere"))
    fails(2, "8 cannot be shared equally by 3 ranks", more=("--cpu-ranks", "3"))
    other = two_classes(tmp_path / "other")
    next((other / "val").rglob("*.jpg")).unlink()
    fails(3, "a and b would be validated on different images", more=sets(f"members.b.data.root={other}"))
    fails(2, "members.c: no such member", more=sets("members.c.train.seed=1"))
    fails(4, "one of several ranks", RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="x", MASTER_PORT="1")
    fails(2, "for a recipe this is a folder", of=("ensemble", "two.yaml", "--output", "both.json"))
    fails(2, "is a single training", "inceptionctl train quickstart", of=("ensemble", "quickstart"))
    fails(2, "other sources were given too", of=("ensemble", "two.yaml", "both"))
    fails(2, "--set applies to a recipe", of=("ensemble", "runs/a", "runs/b", *sets("train.seed=1")))
    fails(2, "exclude each other", more=("--gpus", "1"))
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "a").write_text("something")
    refused(inceptionctl(*words, cwd=tmp_path), 5, "both/a is occupied by something else")


def test_runs_are_evaluated_where_they_are_not(run: Run, tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    words = ("ensemble", run.path, raw, "--protocol", "10crop")
    evaluated = inceptionctl("evaluate", run.path, "--protocol", "10crop", "--weights", "raw", "--output", raw)
    assert evaluated.returncode == 0, evaluated.stderr
    refused(inceptionctl(*words, "--saved-only"), 5, "has no evaluation by 10crop yet")
    dry = inceptionctl(*words, "--dry-run", "--json")
    assert [row["evaluation"] for row in json.loads(dry.stdout)] == [None, str(raw.with_suffix(".parquet"))]
    done = inceptionctl(*words, "--json", "--output", tmp_path / "both.json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["protocol"] == "10crop" and told["members"][0]["loss"] != told["members"][1]["loss"]
    assert read_record(tmp_path / "both.parquet").probabilities.shape == (24, 6)
    saved = inceptionctl(*words, "--saved-only", "--json")
    assert json.loads(saved.stdout) == told
    refused(inceptionctl(*words, "--output", tmp_path), 2, "is a folder")


def test_an_evaluation_that_is_stopped_is_gone_on_with(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log"
    parts = run.evaluations / ".step-00000010_ema_144crop.parts"
    words = ("ensemble", run.path, run.path, "--protocol", "144crop")
    with started(*words, cwd=tmp_path, log=log) as process:
        wait_for(lambda: parts.exists(), process, log)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=200) == 75, log.read_text()
        wait_for(lambda: not left_of(process), None, log)
    assert f"resume with: inceptionctl ensemble {run.path}" in log.read_text() and "Traceback" not in log.read_text()
